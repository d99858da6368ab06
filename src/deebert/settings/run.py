"""The top of `params.yaml`: what to run."""


def resolve_model(model: str, dataset: str) -> str:
    """The model with `default` resolved: `toy-bert` for the embedded data set, `bert-base` for any other."""
    if model != "default":
        return model
    return "toy-bert" if dataset == "toy" else "bert-base"
