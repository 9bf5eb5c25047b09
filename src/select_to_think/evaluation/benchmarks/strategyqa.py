"""StrategyQA: yes/no questions that need several facts (Geva et al. 2021). The test labels are not public.

The authors' repository divides the 2290 labelled questions into train (2061) and dev (229), the hub's data set into
train (1603) and test (687). Here the authors' division holds wherever the questions come from (`DEV` names its part).
The order differs.
"""

from __future__ import annotations

from typing import Any

from select_to_think.evaluation.benchmarks.base import YES_OR_NO, Benchmark, Row, Split, record

DEV = frozenset(
    """
    018cb 04246 088eb 09734 0abc0 0ad62 0dc86 0de27 0ec75 0edac 0f172 0f288 0ff68 117c2 11d00 12b0b 14a1d 14bfe
    157b0 1932e 19b40 1b6cc 1bdcf 1cfd6 1d07c 1e9d5 1eb87 20259 2047c 21e35 23506 243e3 2800b 29574 2a7d1 2a901
    2b73d 2b982 2c391 2e4a3 2ebff 2ef10 2fcd9 30257 316d7 31d0f 33421 34198 34aaa 35459 36793 37673 3a76a 3a906
    3a93c 3eb80 3f4f0 4070e 4111c 42608 427fd 42852 4330d 44ec5 44f54 48659 486b0 48cf1 49ab7 4a28d 4b66e 4b6ca
    4bea3 4d52d 4d919 4f5f3 51126 51678 520be 534ce 5378f 53f25 54fbd 55ac7 563a3 5737e 5787a 58f7d 596b6 59e78
    5a726 5b45c 5d85b 5f290 615aa 62082 6252e 62e8d 6396f 66b3c 67349 6a0d8 6d92b 6e95d 6ef94 6fe61 70642 71e6d
    72478 7702e 77b1d 79535 79852 7c287 7d1f1 7e69e 7e6f3 7e7ba 7f457 81f2c 8238c 83a7c 869bb 8757a 8803e 89163
    896b0 8c115 8d7f7 8d95e 8efd6 8f9ba 90c55 9635d 96844 983e2 988f7 99eb8 9a6e0 9bf48 9c13f 9eba4 9ebae 9f141
    9fa4b a1980 a1a13 a5f8a a651b a68fa a9ac2 a9d22 ab252 abb35 addf9 b1e12 b3720 b4e65 b73a1 b81db b848d ba2a5
    ba83e bac10 badd2 bbfc6 bcd22 bd9cc bdaf0 be5c9 c0c66 c0e0a c23b8 c39d1 c42d9 c435c c44ae c4f5c c5e13 c649c
    c6939 c7cb1 c8eac c91ea cbc09 cbebe cc56b cda79 d0e46 d0e81 d24a5 d2ae1 d6072 d7ea6 dca3c e0044 e0c10 e126c
    e144f e18f8 e1be1 e1f9a e33a8 e45dd e537c e5dff e5ffc e8d24 ebd53 ec046 ec06b ed04a ed247 ee891 f2a71 f2eac
    f37c8 f640e f6479 f790b f7fa9 f8541 f93ca f9686 fb386 fb8b6 fc0bb fda4d ff21d
    """.split()
)  # the first five digits of the ids of the dev questions; no question of train begins so


def to_record(row: Row, index: int, split: str) -> dict[str, Any]:
    """A row of `ChilleD/StrategyQA`."""
    return record(f"strategyqa/{split}/{row['qid']}", row["question"], "yes" if row["answer"] else "no", "bool")


def split_of(row: Row) -> str:
    """The authors' split of a row."""
    return "dev" if row["qid"][:5] in DEV else "train"


BENCHMARK = Benchmark(
    name="strategyqa",
    answer_type="bool",
    prompt=YES_OR_NO,
    splits={
        "dev": Split("test", "train+test", ("strategyqa_dev",)),
        "train": Split("train", "train+test", ("strategyqa_train",)),
    },
    default_split="dev",
    to_record=to_record,
    split_of=split_of,
    hub="ChilleD/StrategyQA",
    revision="705562638fe1d8ca6bb98c66fc8f94d45fda8c83",
)
