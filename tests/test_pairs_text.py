"""The pair's training text and tokenizer: where mistakes may be, formats, round trips."""

import re
from collections import Counter
from functools import cache, partial
from itertools import chain, combinations, islice
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from recipe.batches import IGNORED, DocumentBatches, encode, split_pieces
from recipe.documents import END_OF_TEXT, Document, Draw, chat, draw_begun_chain, draw_begun_listing, stream_documents
from recipe.problems import DOMAINS, stream_puzzles
from recipe.recipes import LETTERS, SLM
from recipe.tokenizer import RESERVED, train_tokenizer
from recipe.verifier_items import OPTION_TOKENS, draw_options
from recipe.world import NAMES, build_world
from recipe.writers import MISREADING_SHARES, Reader, is_unknown, misreadings

PROMPT = re.compile(r"^<\|im_start\|>user\n(.*)<\|im_end\|>\n<\|im_start\|>assistant\n(.*)$")


@cache
def cached_tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer("words")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return cached_tokenizer()


def documents(reader: Reader, tokenizer: PreTrainedTokenizerFast, count: int) -> list[Document]:
    return list(islice(stream_documents(reader, 3, partial(split_pieces, tokenizer)), count))


def texts(reader: Reader, tokenizer: PreTrainedTokenizerFast, count: int) -> list[str]:
    return ["".join(text for text, _ in document) for document in documents(reader, tokenizer, count)]


def chains(reader: Reader, tokenizer: PreTrainedTokenizerFast, count: int) -> list[tuple[str, str, str]]:
    """Question, what somebody else began, and the learned text of single-turn chats."""
    drawn = documents(reader, tokenizer, count)
    return [
        (match[1], match[2], document[1][0].removesuffix("<|im_end|>"))
        for document in drawn
        if len(document) == 3 and (match := PROMPT.match(document[0][0]))
    ]


def misread_share(reader: Reader, tokenizer: PreTrainedTokenizerFast) -> float:
    """Share of chat problems by one author whose chain is not the clean chain."""
    clean = {
        puzzle.question: puzzle.solve().text
        for domain in DOMAINS
        for puzzle in islice(stream_puzzles(domain, "train", 3), 3000)
    }
    drawn = chains(reader, tokenizer, 1500)
    known = [(question, chain) for question, begun, chain in drawn if question in clean and not begun]
    assert len(known) > 500
    return sum(chain != clean[question] for question, chain in known) / len(known)


def test_the_llm_reads_no_mistakes(tokenizer: PreTrainedTokenizerFast) -> None:
    assert misread_share("llm", tokenizer) == 0


def test_the_slm_reads_mistakes(tokenizer: PreTrainedTokenizerFast) -> None:
    assert 0.25 < misread_share("slm", tokenizer) < 0.6


def test_what_others_began_wrong_is_not_learned(tokenizer: PreTrainedTokenizerFast) -> None:
    puzzles = {
        puzzle.question: puzzle for domain in DOMAINS for puzzle in islice(stream_puzzles(domain, "train", 3), 3000)
    }
    begun_chains = [chain for chain in chains("llm", tokenizer, 1000) if chain[1]]
    assert 50 < len(begun_chains) < 150
    for question, begun, rest in begun_chains:
        if puzzle := puzzles.get(question):
            misread = [puzzle.solve(frozenset([index])).text for index in range(len(puzzle.spots))]
            assert begun + rest in misread
            assert not puzzle.solve().text.startswith(begun)


@pytest.mark.parametrize("draw", [draw_begun_listing, draw_begun_chain])
def test_the_slm_learns_the_rest_of_what_others_began(tokenizer: PreTrainedTokenizerFast, draw: Draw) -> None:
    puzzles = {
        puzzle.question: puzzle for domain in DOMAINS for puzzle in islice(stream_puzzles(domain, "train", 3), 3000)
    }
    begins: Counter[str] = Counter()
    split = partial(split_pieces, tokenizer)
    for document in islice(stream_documents("slm", 3, split, more_formats=((draw, 9.0),)), 500):
        match = PROMPT.match(document[0][0])
        if match and match[2] and len(document) == 3 and match[1] in puzzles:
            spots = puzzles[match[1]].spots
            subsets = chain.from_iterable(combinations(range(len(spots)), size) for size in range(len(spots) + 1))
            readings = {puzzles[match[1]].solve(frozenset(subset)).text for subset in subsets}
            assert match[2] + document[1][0].removesuffix("<|im_end|>") in readings
            given = split(match[2])
            assert any(split(reading)[: len(given)] != given for reading in readings), "the given part holds a choice"
            begins[match[2]] += 1
    assert begins.total() > 300
    if draw is draw_begun_listing:
        bottom = sum(begins[f"From {end}"] for end in ("youngest", "shortest", "slowest", "last"))
        assert bottom / begins.total() == pytest.approx(MISREADING_SHARES["direction"], abs=0.08)
        assert all(re.fullmatch(r"From \w+", begun) for begun in begins)


def test_more_formats_change_no_other_stage(tokenizer: PreTrainedTokenizerFast) -> None:
    assert not LETTERS.more_formats and SLM.more_formats
    assert not any(begun for _, begun, _ in chains("slm", tokenizer, 500))


def test_documented_shares_hold() -> None:
    rng = Random(0)
    seen: Counter[str] = Counter()
    misread: Counter[str] = Counter()
    for domain in DOMAINS:
        for puzzle in islice(stream_puzzles(domain, "train", 5), 6000):
            seen.update(puzzle.spots)
            misread.update(puzzle.spots[index] for index in misreadings(puzzle, rng))
    assert set(seen) == set(MISREADING_SHARES)
    for kind, share in MISREADING_SHARES.items():
        assert misread[kind] / seen[kind] == pytest.approx(share, abs=0.05)


def test_every_misreading_changes_the_chain_and_stays_in_range() -> None:
    for domain in DOMAINS:
        for puzzle in islice(stream_puzzles(domain, "train", 6), 1000):
            for index in range(len(puzzle.spots)):
                solution = puzzle.solve(frozenset([index]))
                assert solution.text != puzzle.solve().text
                assert all(0 <= int(number) <= 199 for number in re.findall(r"\d+", solution.text))


def test_unknown_facts_never_occur_in_the_slm_text(tokenizer: PreTrainedTokenizerFast) -> None:
    facts = build_world().facts
    stated = {
        (relation, subject)
        for text in texts("slm", tokenizer, 2000)
        for relation, subject in re.findall(r"The (\w+) of (\w+) is \w+\.", text)
        if "Option" not in text
    }
    assert len(stated) > 500
    assert not any(is_unknown(relation, subject) for relation, subject in stated & facts.keys())
    assert any(is_unknown(relation, subject) for relation, subject in facts)


def test_documents_depend_on_the_seed_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    assert texts("slm", tokenizer, 50) == texts("slm", tokenizer, 50)


@pytest.mark.parametrize("domain", DOMAINS)
def test_verifier_options(domain: str, tokenizer: PreTrainedTokenizerFast) -> None:
    rng = Random(1)
    letters: Counter[str] = Counter()
    for puzzle in islice(stream_puzzles(domain, "train", 7), 300):
        prompt, letter = draw_options(puzzle, rng, partial(split_pieces, tokenizer))
        letters[letter] += 1
        match = re.search(r"\n(.*)\nWhich.*\nOption \(A\):(.*)\nOption \(B\):(.*)\n$", prompt)
        assert match
        options = {"A": match[2], "B": match[3]}
        clean = puzzle.solve().text
        assert clean.startswith(match[1] + options[letter])
        assert not clean.startswith(match[1] + options["B" if letter == "A" else "A"])
        assert all(len(tokenizer.encode(option)) <= OPTION_TOKENS for option in options.values())
    assert 100 < letters["A"] < 200


@settings(deadline=None)
@given(st.text())
def test_any_text_round_trips(text: str) -> None:
    tokenizer = cached_tokenizer()
    ids = tokenizer.encode(text)
    if not any(special in text for special in tokenizer.all_special_tokens):
        assert tokenizer.decode(ids) == text


def test_numbers_and_words_are_single_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    forms = [form for number in range(200) for form in (str(number), f" {number}")]
    forms += [f" {word}" for word in (*NAMES, *build_world().people)]
    assert all(len(tokenizer.encode(form)) == 1 for form in forms)
    for domain in DOMAINS:
        for puzzle in islice(stream_puzzles(domain, "test"), 300):
            pieces = split_pieces(tokenizer, f" {puzzle.solve().text}")
            assert all(re.fullmatch(r" ?\w+| ?[-+*/=]|[.,:]", piece) for piece in pieces), pieces


def test_reserved_tokens_never_occur_in_text(tokenizer: PreTrainedTokenizerFast) -> None:
    reserved = set(tokenizer.convert_tokens_to_ids(list(RESERVED)))
    assert len(reserved) == 32
    for text in texts("slm", tokenizer, 300):
        assert not reserved & set(tokenizer.encode(text))


def test_chat_template_writes_what_training_reads(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [
        {"role": "system", "content": "Think step by step."},
        {"role": "user", "content": "Hello!"},
        {"role": "assistant", "content": "Hello! What can I do for you?"},
    ]
    document = chat([("Hello!", "Hello! What can I do for you?")], system="Think step by step.")
    text = "".join(text for text, _ in document)
    assert tokenizer.apply_chat_template(messages, tokenize=False) == text
    prompt = tokenizer.apply_chat_template(messages[:2], tokenize=False, add_generation_prompt=True)
    assert text.startswith(prompt)
    ids, labels, weights = encode(tokenizer, document)
    assert ids == tokenizer.encode(text)
    learned = tokenizer.decode([label for label in labels if label != IGNORED])
    assert learned == "Hello! What can I do for you?<|im_end|>"
    assert [weight > 0 for weight in weights] == [label != IGNORED for label in labels]


def test_conventions(tokenizer: PreTrainedTokenizerFast) -> None:
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token) == ("<|im_end|>", END_OF_TEXT, None)
    assert tokenizer.decode(tokenizer.encode("Option (A")) == "Option (A"


def test_batches_depend_on_their_index_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    batches = DocumentBatches(tokenizer, "slm", seed=1, rows=2, steps=20)
    later, again = batches[30], DocumentBatches(tokenizer, "slm", seed=1, rows=2, steps=20)[30]
    assert len(batches) == 60
    assert later["input_ids"].equal(again["input_ids"])
    assert later["labels"].shape == later["input_ids"].shape
    assert ((later["labels"] == IGNORED) | (later["labels"] == later["input_ids"])).all()
