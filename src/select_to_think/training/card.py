"""The card of what was trained, with the numbers of its training, and the way to the Hugging Face hub.

A card and what lies beside it hold no text of the training data.

Non-goals: loading from the hub (`hf download OWNER/NAME --local-dir FOLDER`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from select_to_think.files import read_json, write_text_atomic
from select_to_think.models.verifier import NAME as VERIFIER
from select_to_think.structures import S2TError

CARD = "README.md"
KINDS = {  # file of a trained folder -> (what it is, how it is used)
    "scorer.json": ("Scorer of S2T-Local", "s2t generate {models} --scorer {folder} --method s2t-local"),
    "distill.json": ("Distilled SLM", "s2t generate {models} --distill {folder} --method distill"),
    "trigger_head.json": ("Learned trigger", "s2t generate {models} --trigger-head {folder} --trigger learned"),
    f"{VERIFIER}.json": (
        "Verifier of MentorCollab",
        "s2t generate {models} --verifier {folder} --method mentor-mlp",
    ),
}


def described(folder: Path) -> tuple[str, str, Mapping[str, Any]]:
    """What a trained folder is, how it is used, and what its file says.

    Raises:
        S2TError: nothing that was trained here.
    """
    for file, (title, usage) in KINDS.items():
        if (folder / file).exists():
            return title, usage, read_json(folder / file, remedy="train it again")
    raise S2TError(f"{folder} holds nothing that `s2t train` made: name the --out of a training")


def public_name(model: str) -> str:
    """A model's name without the folder or the server where it lies, which are nobody's business."""
    name = model if Path(model).exists() else model.partition(" at ")[0]
    return Path(name).name if Path(name).exists() or name.startswith(("/", ".", "~")) else name


def write_card(folder: Path) -> None:
    """Write the model card of a trained folder into it."""
    title, usage, about = described(folder)
    training = about["training"]
    slm = str(about.get("slm", ""))
    owner, _, name = slm.partition("/")
    bundled = name == "slm"  # of a pair that comes with the library, and is not on the hub
    models = f"--pair {owner}" if bundled else f"--slm {slm or 'SLM'}"
    base = [f"base_model: {slm}"] if name and not bundled else []
    numbers = {**about, **training}
    del numbers["schema"]
    scalars = {name: value for name, value in numbers.items() if isinstance(value, int | float | str) and value != ""}
    parts = [
        "\n".join(["---", "library_name: select-to-think", *base, "tags: [select-to-think]", "---"]),
        f"# {title}",
        f"Trained with Select to Think for `{slm or about['slm_fingerprint']}`; no other SLM accepts it.",
        f'    {usage.format(models=models, folder="FOLDER")} "..."',
        "## Numbers\n\n" + table(("", ""), list(scalars.items())),
    ]
    if epochs := training.get("epochs"):
        names = list(epochs[-1])
        rows = [[epoch.get(name, "") for name in names] for epoch in epochs]
        parts.append("## Epochs, on held-out items\n\n" + table(names, rows))
    if config := training.get("config"):
        parts.append("## Settings\n\n" + table(("", ""), list(config.items())))
    write_text_atomic(folder / CARD, "\n\n".join(parts) + "\n")


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    shown = (map(cell, row) for row in rows)
    return "\n".join("| " + " | ".join(row) + " |" for row in (heads, ["---"] * len(heads), *shown))


def cell(value: Any) -> str:
    """A value as the text of a table's cell."""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", r"\|").replace("\n", "<br>")


def push(folder: Path, repository: str, *, private: bool = False) -> str:
    """Upload a trained folder to the hub, where it is made if need be; returns its address.

    Raises:
        S2TError: nothing that was trained here, no such name, no right to write there, or no network.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    title, _, _ = described(folder)
    hub = HfApi()
    refusals: Any = (OSError, ValueError, *HfHubHTTPError.__bases__)  # its HTTP library is not the same everywhere
    try:
        made = hub.create_repo(repository, private=private, exist_ok=True)
        hub.upload_folder(repo_id=made.repo_id, folder_path=folder, commit_message=title)
    except refusals as error:
        reason = str(error).strip().splitlines()[0]
        raise S2TError(
            f"cannot push to {repository}: {reason}; log in with `hf auth login`, or name another"
        ) from error
    return str(made)
