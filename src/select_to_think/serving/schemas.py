"""What clients may send: OpenAI's fields, and our own in the object `s2t`.

Fields that OpenAI knows and that change nothing here are taken and ignored; those that would change the answer and
cannot be served may only be absent or null. What is unknown is refused.

Non-goals: what the fields do (`jobs.py`).
"""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any, ClassVar, Literal, get_type_hints

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    WithJsonSchema,
    create_model,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from select_to_think.config import MentorConfig, SelectConfig
from select_to_think.models.prompting import Conversation

MOST_ALTERNATIVES = 20
MOST_ASKED = 1024  # token ids
LARGEST_INT = 2**63 - 1


def only_zero(value: float) -> float:
    """The value, if it is 0."""
    if value:
        raise PydanticCustomError("only_zero", "only 0 is served")
    return value


TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Ids = list[TokenId]
Name = Annotated[str, Field(max_length=1024)]
Bias = Annotated[float, Field(ge=-100, le=100)]
Zero = Annotated[float, AfterValidator(only_zero), WithJsonSchema({"type": "number", "enum": [0]})]


def kind_of_prompt(value: Any) -> str | None:
    """Which of the four kinds of prompt is meant."""
    if isinstance(value, str):
        return "text"
    if not isinstance(value, list) or not value:
        return None
    return "texts" if isinstance(value[0], str) else "lists" if isinstance(value[0], list) else "ids"


Prompts = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[list[str], Tag("texts")]
    | Annotated[Ids, Tag("ids")]
    | Annotated[list[Ids], Tag("lists")],
    Discriminator(
        kind_of_prompt,
        custom_error_type="prompt_type",
        custom_error_message="give a text, a list of texts, a list of token ids, or a list of such lists",
    ),
]


class Sent(BaseModel):
    """A JSON object of a client: no other fields, no other types, finite numbers."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class OwnFields(Sent):
    """What is no setting of a method."""

    model_config = ConfigDict(str_max_length=4096)

    method: str | None = Field(None, description="Method of decoding; wins over the one in the model's name.")
    preset: str | None = Field(None, description="Definitions of the published code: s2t-paper or mentorcollab-paper.")
    trace: bool = Field(False, description="Tell every step: what was proposed, and who decided.")
    alternatives: int | None = Field(
        None, ge=0, le=MOST_ALTERNATIVES, description="Most probable tokens of every step of the trace (default 8)."
    )
    answer_tokens: Ids = Field([], description="Token ids with which the answer begins already.")


def setting_fields(*configs: type[Any]) -> dict[str, Any]:
    """Every field of some configurations, to be left out or given."""
    found: dict[str, Any] = {}
    for config in configs:
        hints = get_type_hints(config)
        for spec in fields(config):
            low, high = spec.metadata["low"], spec.metadata["high"]
            found[spec.name] = (
                hints[spec.name] | None,
                Field(
                    None,
                    ge=low,
                    le=LARGEST_INT if high is None and low is not None else high,
                    description=spec.metadata["help"],
                ),
            )
    return found


S2TFields: Any = create_model("S2TFields", __base__=OwnFields, **setting_fields(SelectConfig, MentorConfig))


class StreamOptions(Sent):
    """How a stream is told."""

    include_usage: bool = False
    include_obfuscation: bool = False


class Asked(Sent):
    """What both kinds of request have."""

    model: Name | None = Field(None, description="The pair's name, or NAME:METHOD; see /v1/models.")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1, le=2**31, description="Answers to each prompt.")
    stop: str | list[str] | None = None
    seed: int | None = Field(None, ge=-(2**63), le=LARGEST_INT)
    temperature: float | None = Field(None, ge=0, le=2, description="Of `sample` and `maj@N`; the others do not draw.")
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=2**31 - 1, description="Tokens kept when sampling; 0 or -1 keeps all.")
    min_p: float | None = Field(None, ge=0, le=1)
    max_tokens: int | None = Field(None, ge=0, le=2**31 - 1)
    logit_bias: Annotated[dict[str, Bias], Field(max_length=MOST_ASKED)] | None = None
    logprob_token_ids: Annotated[Ids, Field(max_length=MOST_ASKED)] | None = Field(
        None, description="Tokens whose log-probabilities are told at every step, in place of the most probable ones."
    )
    return_tokens_as_token_ids: bool | None = None
    frequency_penalty: Zero | None = None
    presence_penalty: Zero | None = None
    user: str | None = None
    s2t: S2TFields = S2TFields()

    @field_validator("stop")
    @classmethod
    def _some_stop(cls, stop: str | list[str] | None) -> list[str]:
        strings = [stop] if isinstance(stop, str) else stop or []
        if len(strings) > 16 or not all(strings):
            raise ValueError("give at most 16 strings, none of them empty")
        return strings

    @field_validator("s2t", mode="before")
    @classmethod
    def _own(cls, own: Any) -> Any:
        return {} if own is None else own

    @model_validator(mode="after")
    def _consistent(self) -> Asked:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is only allowed when stream is true")
        if self.logprob_token_ids and (self.alternatives is None or self.s2t.trace):
            raise ValueError("logprob_token_ids is only allowed with logprobs and without a trace")
        return self

    @property
    def alternatives(self) -> int | None:
        """Tokens told beside each chosen one; None: not even that one."""
        raise NotImplementedError

    @property
    def stops(self) -> tuple[str, ...]:
        """The strings that end an answer."""
        return tuple(self.stop or ())

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return self.stream_options is not None and self.stream_options.include_usage


class TextPart(Sent):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(Sent):
    """One turn of a conversation; answers of this server may be sent back as they are."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    refusal: str | None = None
    annotations: list[None] | None = None
    audio: None = None
    function_call: None = None
    tool_calls: None = None

    @property
    def turn(self) -> tuple[str, str]:
        """(role, text) as chat templates know them."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content or ())
        return "system" if self.role == "developer" else self.role, text


class TextFormat(Sent):
    """The only format of answers."""

    type: Literal["text"]


class ChatRequest(Asked):
    """POST /v1/chat/completions."""

    echo: ClassVar[bool] = False
    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=0, le=2**31 - 1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MOST_ALTERNATIVES)
    response_format: TextFormat | None = None
    tools: None = None
    tool_choice: Literal["none", "auto"] | None = None
    functions: None = None
    function_call: None = None
    audio: None = None
    prediction: None = None
    web_search_options: None = None
    reasoning_effort: None = None
    verbosity: None = None
    modalities: list[Literal["text"]] | None = None
    parallel_tool_calls: bool | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @model_validator(mode="after")
    def _chat_consistent(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs is only allowed when logprobs is true")
        if self.longest == 0:
            raise ValueError("max_tokens must be at least 1")
        return self

    @property
    def prompts(self) -> list[Conversation]:
        """The one conversation."""
        return [Conversation(tuple(message.turn for message in self.messages), tuple(self.s2t.answer_tokens))]

    @property
    def longest(self) -> int | None:
        """Most tokens of an answer, if the client says so."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def alternatives(self) -> int | None:
        """Tokens told beside each chosen one; None: not even that one."""
        return self.top_logprobs or 0 if self.logprobs else None


class CompletionRequest(Asked):
    """POST /v1/completions."""

    prompt: Prompts
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=MOST_ALTERNATIVES)
    best_of: int | None = Field(None, ge=1, le=1)
    suffix: None = None

    @property
    def prompts(self) -> list[str] | list[Ids]:
        """Each prompt that is to be continued."""
        given: Any = self.prompt
        return [given] if isinstance(given, str) or isinstance(given[0], int) else given

    @property
    def longest(self) -> int | None:
        """Most tokens of an answer; OpenAI's default is 16."""
        return 16 if self.max_tokens is None else self.max_tokens

    @property
    def alternatives(self) -> int | None:
        """Tokens told beside each chosen one; None: not even that one."""
        return self.logprobs


class TokenizeRequest(Sent):
    """POST /tokenize, as vLLM has it: a text, or a conversation."""

    model: Name | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    add_special_tokens: bool = True
    return_token_strs: bool = False

    @model_validator(mode="after")
    def _one_of_two(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give prompt or messages")
        return self


class DetokenizeRequest(Sent):
    """POST /detokenize."""

    model: Name | None = None
    tokens: Ids
