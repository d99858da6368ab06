"""The folder of a model: where it is, what belongs to it, and whether it may be replaced."""

from pathlib import Path

from huggingface_hub import HfApi, snapshot_download

from deebert.base.errors import UserError, one_line
from deebert.encoders.loading import load_errors
from deebert.inference import card
from deebert.inference.precisions import RECORD
from deebert.inference.thresholds import THRESHOLDS
from deebert.model import WEIGHTS
from deebert.ramps import RAMPS
from deebert.settings.model_names import HUB_ID, is_folder

CARD = "README.md"  # where the Hub looks for it
GIT = (".git", ".gitattributes", ".gitignore")  # of a clone, which a model may be saved into
ABOUT = "training.json"
HUB_FILES = (CARD, "*.json", "*.safetensors", "vocab.txt", "merges.txt", "bpe.codes")
# What is not weights, and so is kept in memory as it was when the model was loaded.
SMALL_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "bpe.codes",
    ABOUT,
    RECORD,
    THRESHOLDS,
    CARD,
)


def folder_of(model: str | Path) -> Path:
    """Where the files of `model` are, once a repository of the Hub has been downloaded."""
    if isinstance(model, Path) or is_folder(model) or not HUB_ID.fullmatch(model):
        return home_expanded(model)
    repository, _, commit = model.partition("@")
    if not commit:
        raise UserError(f"{model}: no such folder (`dvc repro` makes it); on the Hub expected owner/name@commit")
    with load_errors(model):
        return Path(snapshot_download(repository, revision=commit, allow_patterns=HUB_FILES, ignore_patterns="*/*"))


def push(
    folder: Path,
    repository: str,
    commit_message: str | None,
    private: bool | None,
    token: str | bool | None,
    revision: str | None,
) -> str:
    """Make all files of `folder` a commit of a repository of the Hub; return `owner/name@commit`.

    A model that was there before is replaced: no file of it stays that the new one does not have.
    """
    api = HfApi(token=token)
    try:
        name = api.create_repo(repository, private=private, exist_ok=True).repo_id
        if revision is not None:
            api.create_branch(name, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=name,
            folder_path=folder,
            commit_message=commit_message or "Upload early-exit classifier",
            revision=revision,
            delete_patterns=[WEIGHTS, RAMPS, *SMALL_FILES],
        )
    except Exception as error:  # of the network, the Hub or a name, of several libraries
        raise UserError(f"{repository}: cannot be pushed: {type(error).__name__}: {one_line(error)}") from error
    return f"{name}@{commit.oid}"


def home_expanded(folder: str | Path) -> Path:
    """With the home folder in place of ~; UserError where there is none."""
    try:
        return Path(folder).expanduser()
    except RuntimeError:
        raise UserError(f"{folder}: there is no such home folder") from None


def small_files(folder: Path) -> dict[str, bytes]:
    """Content of all that `folder` has of `SMALL_FILES`."""
    try:
        return {name: (folder / name).read_bytes() for name in SMALL_FILES if (folder / name).is_file()}
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read: {error.strerror}") from None


def check_replaceable(folder: Path, new_card: bytes) -> None:
    """UserError where `folder`, which is about to be replaced as a whole, holds what would be missed."""
    names = {file.name for file in folder.iterdir()} - set(GIT) if folder.is_dir() else set()
    if strangers := sorted(names - {WEIGHTS, RAMPS, *SMALL_FILES}):
        raise UserError(f"{folder}: holds {strangers[0]}, which is no part of the model; expected an empty folder")
    if CARD in names:
        old_card = (folder / CARD).read_bytes()
        if old_card != new_card and not card.is_untouched(old_card):
            raise UserError(
                f"{folder / CARD}: somebody wrote or edited it, and it would be lost; expected it to be moved away"
            )
    if names and RAMPS not in names:
        raise UserError(f"{folder}: holds {min(names)} but no {RAMPS}; expected an empty folder or a saved model")
