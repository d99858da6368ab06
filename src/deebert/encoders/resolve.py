"""What the `model` parameter means: where the model is, how fine-tuning begins with it, which family's code runs it."""

import ast
import dataclasses
import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path

from deebert.base.errors import UserError
from deebert.base.files import check_readable
from deebert.encoders.known import KNOWN_MODELS, PAPER_BERT, KnownModel
from deebert.encoders.start import Start, content_of
from deebert.settings.model_names import HUB_ID, is_folder

log = logging.getLogger(__name__)

PACKAGE = Path(__file__).parents[1]
UNCOUNTED = ("base", "settings")


def resolve(model: str) -> tuple[Start, str]:
    """How fine-tuning begins with `model` (a value of the parameter other than `default`), and its family.

    Raises:
        UserError: there is no such name or folder, or early exit does not work on what is there.
    """
    if model in KNOWN_MODELS:
        known, kind = KNOWN_MODELS[model], "pretrained" if KNOWN_MODELS[model].hub_id else "toy_bert"
        if known.hub_id:
            _check_no_folder(model, model, known.hub_id)
    elif is_folder(model):
        known, kind = _folder(model)
    elif HUB_ID.fullmatch(model):
        known, kind = _repository(model), "pretrained"
    else:
        raise UserError(
            f"params.yaml: model: {model!r} is not allowed; expected default, {', '.join(KNOWN_MODELS)}, a folder,"
            " or a Hub repository as owner/name@commit"
        )
    code = fingerprint(f"deebert.encoders.starts.{kind}")
    return Start(model, kind, known.hub_id, known.revision, dataclasses.asdict(known.recipe), code), known.family


def _check_no_folder(model: str, *names: str) -> None:
    """UserError where a folder here has the name of a model of the Hub, or is where transformers would look first."""
    if found := next((name for name in names if Path(name).is_dir()), None):
        raise UserError(
            f"params.yaml: model: {model!r} is a model of the Hub, and {found} is a folder here; expected ./{found} for"
            " the folder, or the folder elsewhere"
        )


def _folder(model: str) -> tuple[KnownModel, str]:
    # Imported here, because torch and transformers take seconds that a known model needs not wait for.
    from deebert.encoders.starts import released

    folder = Path(model).expanduser()
    check_readable(folder)
    if checkpoint := released.find(model):
        return KnownModel(checkpoint.family, str(folder), content_of(folder), PAPER_BERT), "released"
    if not (folder / "config.json").is_file():
        raise UserError(f"params.yaml: model: {model!r}: no config.json there; expected a Hugging Face model folder")
    if not any(folder.glob("model*.safetensors")):
        raise UserError(
            f"params.yaml: model: {model!r}: no model.safetensors there;"
            " pickled weights are not read, for they may run code"
        )
    return KnownModel(_family(model, folder), str(folder), content_of(folder), PAPER_BERT), "pretrained"


def _repository(model: str) -> KnownModel:
    place, _, revision = model.partition("@")
    _check_no_folder(model, place)
    if not revision:
        log.warning("model %s has no @commit: a later run may get other weights", model)
    return KnownModel(_family(model, place, revision or None), place, revision or None, PAPER_BERT)


def _family(model: str, place: str | Path, revision: str | None = None) -> str:
    """The `model_type` there; UserError where early exit does not work, or where files would not be what counts."""
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    from deebert.encoders.loading import load_errors, supported_config
    from deebert.encoders.unused import refuse_other_files

    with load_errors(model):
        config = supported_config(model, place, revision)
        tokenizer = get_tokenizer_config(place, revision=revision)
    refuse_other_files(model, config, tokenizer)
    return config.model_type


def fingerprint(module: str) -> str:
    """12 hexadecimal digits that change with any line of `module`, or of what it imports of this package.

    The rooms `base` and `settings` do not count: they check and tell, and no weight and no logit follows from them.

    A module that is imported by name is no dependency of a stage in `dvc.yaml`: there one would have to list them all,
    and each new one would run the stage again for every model. The stage depends on this fingerprint instead.
    """
    digest = hashlib.sha256()
    for file in sorted(_closure(_file_of(module))):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _closure(file: Path) -> set[Path]:
    """`file` and every module of this package that runs with it."""
    found, waiting = set(), {file}
    while waiting:
        found.add(one := waiting.pop())
        waiting |= set(_imported(one)) - found
    return found


def _imported(file: Path) -> Iterator[Path]:
    """The modules of this package that `file` imports; a package's own file holds no code."""
    for node in _executed(ast.parse(file.read_bytes())):
        if isinstance(node, ast.ImportFrom):
            names = (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
            files = filter(Path.is_file, map(_file_of, names))
            yield from (file for file in files if file.parent.name not in UNCOUNTED)


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below `node`, functions' bodies included, but nothing that is there for type checkers only."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield child
            yield from _executed(child)


def _file_of(module: str) -> Path:
    """Where a module of this package is, or would be."""
    return PACKAGE.parent.joinpath(*module.split(".")).with_suffix(".py")
