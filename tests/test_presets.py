"""`--preset NAME` everywhere: its values are the defaults of the other settings, and what is set beside it wins."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from select_to_think.checked import configurations
from select_to_think.cli.app import main
from select_to_think.cli.command import add_command
from select_to_think.cli.options import Only
from select_to_think.cli.output import Reply
from select_to_think.config import DecodeConfig, EvalSettings, MentorConfig, PairConfig, SelectConfig
from select_to_think.evaluation.measure import measure
from select_to_think.evaluation.settings import method_settings
from select_to_think.methods import METHODS
from select_to_think.models.prompting import prompt_ids
from select_to_think.models.verifier_prompt import VerifierPrompt
from select_to_think.models.words import PUBLISHED_LONGEST, Words, published_words, token_texts
from select_to_think.presets import PRESETS
from select_to_think.session import Session
from select_to_think.structures import Observation, S2TError
from select_to_think.training.settings import VerifierTrainConfig
from select_to_think.triggers.table import TRIGGERS, calibrated, find_trigger
from select_to_think.verifiers.free import FreeVerifier
from tiny import tiny_loaded

CONFIGS = (SelectConfig, MentorConfig, VerifierTrainConfig)


@pytest.fixture(scope="module")
def session() -> Session:
    return Session.load()


def values(config: Any) -> dict[str, Any]:
    return {spec.name: getattr(config, spec.name) for spec in fields(config)}


@pytest.mark.parametrize("name", PRESETS)
def test_every_value_of_a_preset_is_a_setting_and_not_its_default(name: str) -> None:
    defaults = {key: value for config in CONFIGS for key, value in values(config()).items()}
    same = {key for key, value in PRESETS[name].items() if defaults[key] == value}
    assert same <= {"verifier_opening"}, "a preset that sets nothing says nothing"
    for config in CONFIGS:
        if own := {key: PRESETS[name][key] for key in PRESETS[name].keys() & values(config()).keys()}:
            assert values(config.preset(name)).items() >= own.items()
        else:
            with pytest.raises(S2TError, match=f"{name} sets nothing of {config.__name__}"):
                config.preset(name)


def test_what_is_set_beside_a_preset_wins() -> None:
    assert SelectConfig.preset("s2t-paper", score="anchored", trigger_budget=0.5) == SelectConfig(
        trigger_definition="paper", warm_up_steps=3, scorer_mode="coupled", score="anchored", trigger_budget=0.5
    )
    with pytest.raises(S2TError, match="did you mean 's2t-paper'"):
        SelectConfig.preset("s2t-papers")


@dataclass
class Given:
    settings: dict[str, Any]


def run(function: Any, *flags: str) -> tuple[int, str]:
    app = typer.Typer()
    add_command(app, "run", function)
    app.command("other")(lambda: None)
    result = CliRunner().invoke(app, ["run", *flags, "--json"])
    return result.exit_code, result.output


def whole(select: SelectConfig, mentor: MentorConfig) -> Reply:
    return Reply({**values(select), **values(mentor)}, lambda console: None)


def test_flags_beside_a_preset_win() -> None:
    code, said = run(whole, "--preset", "s2t-paper", "--scorer-mode", "activated", "--warm-up-steps", "0")
    expected = SelectConfig.preset("s2t-paper", scorer_mode="activated", warm_up_steps=0)
    assert code == 0 and json.loads(said) == {**values(expected), **values(MentorConfig())}
    code, said = run(whole, "--segment-tokens", "4", "--preset", "mentorcollab-paper")
    expected_mentor = MentorConfig.preset("mentorcollab-paper", segment_tokens=4)
    assert code == 0 and json.loads(said) == {**values(SelectConfig()), **values(expected_mentor)}


def test_an_unknown_preset_is_refused_with_the_nearest(capfd) -> None:
    assert main(["generate", "w5", "--preset", "s2t-papr"]) == 2
    assert "did you mean 's2t-paper'" in " ".join(capfd.readouterr().err.split())


def part(select: Annotated[SelectConfig, Only(("trigger_budget", "score"))]) -> Reply:
    return Reply({}, lambda console: None)


def test_a_command_that_could_only_follow_half_of_it_has_no_preset() -> None:
    assert run(part, "--preset", "s2t-paper")[0] == 2


@pytest.mark.parametrize("command", ["generate", "eval", "measure", "ablate", "serve", "train verifier"])
def test_commands_that_decode_have_it(command: str, capfd) -> None:
    main([*command.split(), "--help"])
    assert "--preset" in capfd.readouterr().out


def test_the_harness_has_it() -> None:
    from select_to_think.evaluation.harness import configurations

    given = {"preset": "s2t-paper", "score": "anchored"}
    _, _, select, mentor = configurations(given)
    assert select == SelectConfig.preset("s2t-paper", score="anchored") and mentor == MentorConfig()
    assert configurations({"preset": "mentorcollab-paper"})[3] == MentorConfig.preset("mentorcollab-paper")
    with pytest.raises(S2TError, match="did you mean"):
        configurations({"preset": "s2tpaper"})


@pytest.mark.parametrize("method", [name for name, record in METHODS.items() if record.trigger])
def test_every_trigger_of_a_method_has_the_published_form(method: str) -> None:
    record = METHODS[method]
    preset = SelectConfig.preset("s2t-paper")
    assert record.trigger_name(preset) == f"{record.trigger}-paper"
    for named, kind in TRIGGERS.items():
        if record.asks_llm or not kind.needs_llm:
            form = record.trigger_name(replace(preset, trigger=named))
            assert form == (f"{named}-paper" if f"{named}-paper" in TRIGGERS else named)
            assert record.trigger_name(replace(preset, trigger=named, trigger_definition="ours")) == named


def test_the_bundled_pair_has_thresholds_for_every_definition(session: Session) -> None:
    coupled = SelectConfig.preset("s2t-paper")
    for warm_up in (0, 3):
        for kind in calibrated(with_llm=True):
            assert session.trigger(kind.name, 0.03, warm_up_steps=warm_up).threshold > 0
        for score in ("bins", "anchored"):
            scorer = session.scorer(replace(coupled, score=score))
            for kind in calibrated(with_llm=False):
                assert session.trigger(kind.name, 0.03, scorer, warm_up).threshold > 0


def test_results_say_which_definition_they_were_made_with(session: Session) -> None:
    made = [
        method_settings(session, "takeover", EvalSettings(select=select))
        for select in (SelectConfig(), SelectConfig(trigger_definition="paper"), SelectConfig(warm_up_steps=3))
    ]
    assert [each["select"]["trigger"] for each in made] == ["kl", "kl-paper", "kl"]
    assert len({each["threshold"] for each in made}) == 3


def test_measuring_follows_the_definition(session: Session) -> None:
    from select_to_think.evaluation.items import load_pair_split

    items = load_pair_split("validation", limit_per_domain=1)
    decode = DecodeConfig(max_new_tokens=40)
    rows = {}
    for warm_up in (0, 3):
        for definition in ("ours", "paper"):
            select = SelectConfig(trigger_budget=0.2, trigger_definition=definition, warm_up_steps=warm_up)
            found = measure(session, items, select=select, decode=decode)
            rows[warm_up, definition] = found.provenance["config"]["measure"]["kl_nats_threshold"]
    assert len(set(rows.values())) == 4
    outputs = [answer.tokens for answer in session.generate([i.question for i in items], "greedy", decode)]
    labels = session.label([i.question for i in items], outputs, decode=decode)
    behind = sorted(float(v) for _, each in labels for v in each.statistics["kl-paper"][3:])
    assert rows[3, "paper"] == pytest.approx(behind[-round(0.2 * len(behind))], abs=1e-5)


def test_the_published_question_goes_on_behind_the_answer(session: Session) -> None:
    mentor = MentorConfig.preset("mentorcollab-paper")
    prompt = VerifierPrompt(session.slm, mentor.verifier_template, mentor.verifier_opening, mentor.verifier_place)
    about = prompt.about("Who has {a} and {text}?")
    tokenizer = session.slm.tokenizer
    before, first, second = (tokenizer(each, add_special_tokens=False).input_ids for each in ("Kim has", " 3", " 4"))
    text = (
        "Kim has\nNow I will choose the next sequence that could lead to the correct answer. "
        "Option (A):  3, Option (B):  4. "
    )
    asked = prompt_ids(session.slm, "Who has {a} and {text}?", begun=f"{text}My choice: Option (A")
    assert [*about.ids(before, first, second), about.letters[0]] == asked
    read = about.read_at("before").ids(before, first, second)
    assert read == prompt_ids(session.slm, "Who has {a} and {text}?", begun=text)
    assert about.read_at("behind") == about and prompt.letters == about.letters


def test_the_rule_of_the_most_probable_token() -> None:
    class Says:
        def text(self, tokens: list[int]) -> str:
            return ("A", "B", " B", "  B", " A", "b", "Both", "")[tokens[0]]

    import numpy as np

    verifier: Any = FreeVerifier(Says(), "ab", "top")  # type: ignore[arg-type]
    seen = Observation(top_ids=np.arange(8)[:, None])
    assert (verifier.read(seen) > 0).tolist() == [False, True, True, False, False, False, False, False]
    with pytest.raises(S2TError, match="--order ab with --verifier-rule top"):
        MentorConfig(verifier_rule="top")


def test_published_words(session: Session) -> None:
    words, texts = published_words(session.slm), token_texts(session.slm)
    ids = session.slm.tokenizer("Kim has 31 pens.\nThe answer", add_special_tokens=False).input_ids
    marks = "".join(("" if words.goes_on(a, b) else "|") + texts[b] for a, b in pairwise(ids))
    assert marks == "im| has| 31| pens.|\nThe| answer"
    assert words.longest == PUBLISHED_LONGEST == 12 and session.stop_ids <= words.starts & words.ends


def test_words_are_compared_as_text_or_as_tokens() -> None:
    texts = [" 1", "45", " 14", "5", ""]
    as_text, as_tokens = Words(frozenset(), frozenset(), texts=texts), Words(frozenset(), frozenset())
    assert as_text.same([0, 1], [2, 3]) and not as_tokens.same([0, 1], [2, 3])
    assert as_tokens.same((0, 1), [0, 1]) and not as_text.same([0], [2]) and as_text.same([4], [])


def test_a_pair_without_the_published_thresholds_says_what_to_run() -> None:
    from select_to_think.triggers.calibration import Calibration

    bare = Session(PairConfig(), slm=tiny_loaded(0), llm=tiny_loaded(1, 3))
    flat = {"kl": [0.1] * 1001, "entropy": [0.1] * 1001}
    bare.calibration = Calibration(bare.slm.fingerprint, bare.llm.fingerprint, flat, 100, ["a"])
    for kind in calibrated(with_llm=True):
        published = find_trigger(kind.name, "paper").name
        if published not in flat:
            with pytest.raises(S2TError, match="run `s2t calibrate`"):
                bare.trigger(published, 0.1)


def test_a_preset_is_a_setting_of_other_programs_too() -> None:
    """Of Ray's server and of vLLM's; there too one that sets nothing is refused."""
    own = configurations((SelectConfig, MentorConfig), {"preset": "s2t-paper", "warm_up_steps": "1"}, {})
    assert own[SelectConfig] == SelectConfig.preset("s2t-paper", warm_up_steps=1)
    assert own[MentorConfig] == MentorConfig()
    with pytest.raises(S2TError, match="mentorcollab-paper sets nothing here"):
        configurations((SelectConfig,), {"preset": "mentorcollab-paper"}, {})
