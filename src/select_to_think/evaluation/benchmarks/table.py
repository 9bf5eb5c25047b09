"""The table of benchmarks: where each one's items are, which columns hold what, and what may be trained on.

`amend` is given only where rows need more than naming their columns. Adding a benchmark is adding an entry.

Non-goals: loading (`base.py`).
"""

from __future__ import annotations

import re

from select_to_think.evaluation.benchmarks.base import Benchmark, Row, Split

_LABEL = re.compile(r"^\s*[A-E]\s*\)\s*")  # with which an option of AQuA begins: "A)21"


def integer(value: object) -> str:
    """A number as the shortest text: "1,234" and 1234.0 are "1234"."""
    return str(value).replace(",", "").strip().removesuffix(".0")


def digits(value: object) -> str:
    """The integer that a text spells, without leading zeros and degree signs."""
    return str(int("".join(character for character in str(value) if character.isdigit())))


def only_test(hub: str | None, *files: str) -> dict[str, Split]:
    """The splits of a benchmark that has nothing to be trained on."""
    return {"test": Split("test", hub, files)}


def letter_of_label(row: Row) -> Row:
    """Choices as texts, the answer as a letter: labels are letters, or in some rows of ARC the digits 1-5."""
    label = row["answerKey"]
    answer = chr(65 + list(row["choices"]["label"]).index(label))
    return {"choices": row["choices"]["text"], "answer": answer, "source_label": label if label.isdigit() else None}


def olympiad_row(row: Row) -> Row:
    """The first answer without its dollar signs; what grading it needs."""
    answer = row["final_answer"][0].strip()
    if answer.startswith("$") and answer.endswith("$") and answer.count("$") == 2:
        answer = answer[1:-1].strip()
    return {
        "answer": answer,
        "kind": row["answer_type"],
        "multiple": True if row["is_multiple_answer"] else None,
        "unit": row.get("unit"),
        "tolerance": min(str(row["error"]).split(","), key=float) if row.get("error") else None,
    }


def svamp_row(row: Row) -> Row:
    """The story, then the question."""
    body = row["Body"].strip()
    body += "" if body.endswith((".", "?", "!")) else "."
    question = f"{body} {row['Question'].strip()}"
    return {"question": question, "answer": integer(row["Answer"]), "Type": row["Type"].replace("Divison", "Division")}


STRATEGYQA_DEV = frozenset(
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

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(  # grade-school word problems (Cobbe et al. 2021); the gold stands behind `####`
            "gsm8k",
            "number",
            {"test": Split("test", "test", ("gsm8k_test",)), "train": Split("train", "train", ("gsm8k_train",))},
            hub="openai/gsm8k",
            config="main",
            revision="740312add88f781978c0658806c59bc2815b9866",
            id="gsm8k/{split}/{index}",
            amend=lambda row: {"answer": integer(row["answer"].split("####")[1])},
        ),
        Benchmark(  # 500 competition problems of the MATH test set (Hendrycks et al. 2021; Lightman et al. 2023)
            "math-500",
            "math",
            only_test("test", "math_500", "math_500_test"),
            hub="HuggingFaceH4/MATH-500",
            revision="6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
            id="math_500/{unique_id}",
            question="problem",
            subject="subject",
            meta=("level",),
            amend=lambda row: {"unique_id": row["unique_id"].removesuffix(".json")},
        ),
        Benchmark(  # English open-ended competition mathematics without pictures (He et al. 2024)
            "olympiadbench",
            "math",
            only_test("train", "olympiadbench_maths_en"),
            hub="Hothan/OlympiadBench",
            config="OE_TO_maths_en_COMP",
            revision="91184b52131e7fc9455fef848035173aea8cc01a",
            id="olympiadbench/oe_to_maths_en/{id}",
            subject="subfield",
            meta=("kind", "multiple", "unit", "tolerance"),
            amend=olympiad_row,
        ),
        Benchmark(  # 30 problems with answers from 0 to 999, of which one is 3.3 points: report several seeds
            "aime24",
            "number",
            only_test("train", "aime24", "aime24_test", "aime_2024"),
            hub="HuggingFaceH4/aime_2024",
            revision="2fe88a2f1091d5048c0f36abc874fb997b3dd99a",
            id="aime24/test/{id}",
            question="problem",
            amend=lambda row: {"answer": digits(row["answer"])},
        ),
        Benchmark(  # as aime24; answers may carry a degree sign
            "aime25",
            "number",
            only_test("test", "aime25", "aime25_test", "aime_2025"),
            hub="math-ai/aime25",
            revision="563bb8404243c5f09de6ec262f2db674fe5bce9b",
            id="aime25/test/{id}",
            question="problem",
            amend=lambda row: {"answer": digits(row["answer"])},
        ),
        Benchmark(  # 272 university problems of science and mathematics (OCWCourses; Lewkowycz et al. 2022)
            "minerva-math",
            "math",
            only_test("test", "minerva_math", "minerva_math_test"),
            hub="math-ai/minervamath",
            revision="ee46ddc498933b1977577953250ca5c66be64f96",
            id="minerva_math/test/{index}",
        ),
        Benchmark(  # 1000 varied one-step word problems (Patel et al. 2021), all for evaluation as with their authors
            "svamp",
            "number",
            only_test("train+test", "svamp"),
            hub="ChilleD/SVAMP",
            revision="5e0bf1e5e7c0e9c4bc39180d224f41f3f801b7ef",
            id="svamp/test/{ID}",
            subject="Type",
            amend=svamp_row,
        ),
        Benchmark(  # 164 Python functions with tests (Chen et al. 2021); grading runs them, see `grading.code`
            "humaneval",
            "code",
            only_test("test", "humaneval"),
            hub="openai/openai_humaneval",
            revision="7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544",
            id="humaneval/test/{number}",
            question="prompt",
            answer="canonical_solution",
            meta=("entry_point", "test"),
            amend=lambda row: {"number": row["task_id"].split("/")[1]},
        ),
        Benchmark(  # 14 subjects, up to ten choices (Wang et al. 2024); `mmlu_pro_1400` is a sample of 100 per subject
            "mmlu-pro",
            "choice",
            only_test("test", "mmlu_pro_test", "mmlu_pro", "mmlu_pro_1400"),
            hub="TIGER-Lab/MMLU-Pro",
            revision="527feea0afed1de15a8c115abf7be4c912123315",
            id="mmlu_pro/{split}/{question_id}",
            choices="options",
            subject="category",
            meta=("src",),
            amend=lambda row: {"options": [choice for choice in row["options"] if choice != "N/A"]},
        ),
        Benchmark(  # grade-school science questions (Clark et al. 2018)
            "arc-challenge",
            "choice",
            {
                "test": Split("test", "test", ("arc_challenge_test",)),
                "dev": Split("test", "validation", ("arc_challenge_dev",)),
                "train": Split("train", "train", ("arc_challenge_train",)),
            },
            hub="allenai/ai2_arc",
            config="ARC-Challenge",
            revision="210d026faf9955653af8916fad021475a3f00453",
            id="arc_challenge/{split}/{id}",
            choices="choices",
            meta=("source_label",),
            amend=letter_of_label,
        ),
        Benchmark(  # graduate-level questions of 285 fields with up to ten choices (M-A-P Team 2025)
            "supergpqa",
            "choice",
            only_test("train", "supergpqa", "supergpqa_test"),
            hub="m-a-p/SuperGPQA",
            revision="4430d4458112c7d4497fdcf94d7cc223313d6acf",
            id="supergpqa/test/{uuid}",
            answer="answer_letter",
            choices="options",
            subject="discipline",
            meta=("field", "difficulty"),
        ),
        Benchmark(  # Talmor et al. 2019; the test labels are not public: the dev split is what is evaluated
            "commonsenseqa",
            "choice",
            {
                "dev": Split("test", "validation", ("commonsenseqa_dev",)),
                "train": Split("train", "train", ("commonsenseqa_train",)),
            },
            default_split="dev",
            hub="tau/commonsense_qa",
            revision="94630fe30dad47192a8546eb75f094926d47e155",
            id="commonsenseqa/{split}/{id}",
            choices="choices",
            subject="question_concept",
            amend=letter_of_label,
        ),
        Benchmark(  # yes/no questions that need several facts (Geva et al. 2021), divided as by their authors
            "strategyqa",
            "bool",
            {
                "dev": Split("test", "train+test", ("strategyqa_dev",)),
                "train": Split("train", "train+test", ("strategyqa_train",)),
            },
            default_split="dev",
            hub="ChilleD/StrategyQA",
            revision="705562638fe1d8ca6bb98c66fc8f94d45fda8c83",
            id="strategyqa/{split}/{qid}",
            amend=lambda row: {"answer": "yes" if row["answer"] else "no"},
            split_of=lambda row: "dev" if row["qid"][:5] in STRATEGYQA_DEV else "train",
        ),
        Benchmark(  # algebra word problems with five choices (Ling et al. 2017)
            "aqua",
            "choice",
            {"test": Split("test", "test", ("aqua_test",)), "train": Split("train", "train", ("aqua_train",))},
            hub="deepmind/aqua_rat",
            config="raw",
            revision="33301c6a050c96af81f63cad5562cb5363e88971",
            id="aqua/{split}/{index}",
            answer="correct",
            choices="options",
            amend=lambda row: {"options": [_LABEL.sub("", option) for option in row["options"]]},
        ),
        Benchmark("com2-hard", "choice", only_test(None, "com2_hard", "com2_hard_test")),  # not public: a local file
    )
}
