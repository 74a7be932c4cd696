"""Train a SentencePiece vocabulary with T5's special ids (pad 0, eos 1, unknown 2).

From text files, one text a line, or, without any, from the synthetic catalogue:

  python tokenizers/train_sentencepiece.py --input=titles.txt --output=titles.model

The same texts and flags give the same bytes. `recjax.text.vocab.t5` reads the result.
"""

import io
import os
import pathlib
import string
from collections.abc import Iterator

import sentencepiece
from absl import app, flags

from recjax.data import synthetic

_INPUT = flags.DEFINE_multi_string(
  "input", [], "Files of UTF-8 text, one text a line; without any, the synthetic catalogue."
)
_OUTPUT = flags.DEFINE_string("output", None, "The .model file to write.", required=True)
_VOCAB_SIZE = flags.DEFINE_integer("vocab_size", 2000, "Pieces, special ones included.")
_MODEL_TYPE = flags.DEFINE_enum(
  "model_type", "unigram", ["unigram", "bpe"], "How pieces are found."
)
_NORMALIZE = flags.DEFINE_enum(
  "normalize",
  "nmt_nfkc",
  ["nmt_nfkc", "nmt_nfkc_cf", "identity"],
  "What is done to characters first: T5's compatibility forms, these and lower case, or nothing "
  "(which leaves 240 kB of tables out of the file).",
)
_COVERAGE = flags.DEFINE_float("character_coverage", 1.0, "Share of the characters to keep.")

# Every name that the synthetic catalogues are made of, each in a few items.
NAMES = synthetic.Config(1, departments=20, kinds=10, modifiers=5, brands=90, lines=2, cold=1)


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {argv[1:]}")
  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=_lines(_INPUT.value) if _INPUT.value else _synthetic(),
      model_writer=model,
      vocab_size=_VOCAB_SIZE.value,
      model_type=_MODEL_TYPE.value,
      normalization_rule_name=_NORMALIZE.value,
      character_coverage=_COVERAGE.value,
      # Whatever the texts are, plain English and numbers stay within the alphabet.
      required_chars=string.ascii_letters + string.digits + string.punctuation,
      pad_id=0,
      eos_id=1,
      unk_id=2,
      bos_id=-1,
      num_threads=1,
      minloglevel=1,
    )
  except RuntimeError as error:  # "INTERNAL: place [condition] what to do"
    raise app.UsageError(str(error).rpartition("] ")[2]) from None
  output = pathlib.Path(_OUTPUT.value)
  output.parent.mkdir(parents=True, exist_ok=True)
  part = output.with_name(output.name + ".part")
  part.write_bytes(model.getvalue())
  os.replace(part, output)
  print(f"{output}: {_VOCAB_SIZE.value} pieces, {len(model.getvalue()):,} bytes")


def _lines(paths: list[str]) -> Iterator[str]:
  for path in paths:
    with open(path, encoding="utf-8") as file:
      for line in file:
        yield line.strip()


def _synthetic() -> Iterator[str]:
  for catalog in synthetic.catalog_chunks(NAMES):
    yield from catalog["title"][1:].tolist()
    yield from catalog["description"][1:].tolist()


if __name__ == "__main__":
  app.run(main)
