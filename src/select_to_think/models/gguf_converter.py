"""llama.cpp's own converter, run as a program: `python -P gguf_converter.py CONVERT_HF_TO_GGUF ARGUMENTS ...`.

It knows pre-tokenizers by the hash of what they make of a text, and refuses the others. Here these are told to be the
byte-level splitting of GPT-2; `models/gguf.py` reads text with the model's own tokenizer.

Non-goals: anything of this package, which the program does not import.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from functools import partialmethod
from pathlib import Path
from typing import Any

UNKNOWN = "an unknown pre-tokenizer"  # printed where there is one


def known_or_gpt2(model: Any, tokenizer: Any, known: Callable[[Any, Any], str]) -> str:
    """What the converter knows, or the splitting of GPT-2."""
    try:
        return known(model, tokenizer)
    except NotImplementedError:
        print(UNKNOWN)
        return "gpt-2"


def main(script: str, *arguments: str) -> None:
    """Run the converter."""
    sys.path.insert(0, str(Path(script).parent))
    from conversion.base import TextModel  # type: ignore[import-not-found]

    TextModel.get_vocab_base_pre = partialmethod(known_or_gpt2, known=TextModel.get_vocab_base_pre)
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
