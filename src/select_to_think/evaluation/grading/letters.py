"""The phrases around a letter of a multiple choice: patterns that state, choose, confirm or deny it.

Non-goals: the order in which they are tried (see `choice`).
"""

from __future__ import annotations

import re

_DASH = r"\-\u2013\u2014"
_QUOTE = r"\"'\u201c\u2018"

LATEX_SPACE = re.compile(r"(?<!\\)\\[ ,;!]|~(?=\\|[A-Z])")

DENIED_AFTER = re.compile(
    rf"[)\].:,'\"]*\s*(?:[{_DASH}(]\s*)?(?:(?:which|that)\s+)?(?:"
    r"(?:is|are|was|were|seems?|appears?|looks?|would be|must be|can be|could be)\s+"
    r"(?:(?:also|clearly|definitely|therefore|thus|both|all|obviously|simply|too|just|partially|partly|factually)\s+){0,2}"
    r"(?:wrong|incorrect|false|not|never|ruled out|excluded|eliminated|irrelevant|invalid|impossible|unlikely|out\b|"
    r"implausible|unrelated|inaccurate|untrue|too)"
    r"|(?:isn|aren|wasn|doesn|don|can|couldn|won|wouldn)['\u2019]t|cannot|can not|does not|do not|did not|fails?\b|"
    r"contradicts|wrong\b|incorrect\b)",
    re.IGNORECASE,
)
DENIED_BEFORE = re.compile(
    r"(?:\bnot|n['\u2019]t|\brather than|\binstead of|\beliminat(?:e|es|ed|ing)|\brul(?:e|es|ed|ing) out|"
    r"\bexclud(?:e|es|ed|ing)|\bunlike|\bexcept|\bneither|\bnor|\bdiscard|\breject(?:s|ed|ing)?|\bagainst|\bthan|"
    r"\bover|\bwithout|\bcannot)\s+"
    r"(?:(?:be|is|the|an?|option|options|choice|answer|just|only|simply|choose|select|pick|statement|it|really)\s+){0,3}"
    r"[(\"'\[]*$",
    re.IGNORECASE,
)
STATEMENT = re.compile(
    r"\b(?:answers?|ans|(?:correct|right|best|final|appropriate|likely|accurate|true)\s+"
    r"(?:option|choice|one|statement|selection|response|letter|alternative)|"
    r"(?:my|the|final)\s+(?:option|choice|selection|pick|response|conclusion))\b[^.:=\n?!]{0,80}?"
    r"(?:\b(?:is|are|was|would be|should be|must be|will be|has to be|seems to be|appears to be)\b\s*:?|"
    rf"[:=]|\s[{_DASH}]\s|\u2192|->|=>)",
    re.IGNORECASE,
)
DENIAL = re.compile(r"\s*(?:(?:definitely|clearly|certainly|obviously)\s+)?(?:not|neither|never)\b", re.IGNORECASE)
NOT_BUT = re.compile(
    r"\s*(?:not|neither)\b[^.\n]{0,80}?(?:\b(?:but|rather|instead)\b|[;,]\s*it\s+is\b)(?:\s+(?:rather|it\s+is))?",
    re.IGNORECASE,
)
SEVERAL = re.compile(r"\s*(?:both|either|all|any)\b", re.IGNORECASE)
LEAD = re.compile(
    rf"[\s:{_QUOTE}{{=>,{_DASH}]*(?:(?:option|choice|letter|answer|alternative|statement|clearly|definitely|"
    r"most likely|likely|probably|therefore|thus|simply|indeed|actually|in fact|number|"
    r"indicated by|given by|represented by|the|"
    rf"labell?ed|best|correct)\b[\s:{_QUOTE}{{]*){{0,4}}",
    re.IGNORECASE,
)
CHOSEN = re.compile(
    r"\b(?:choose|chose|pick|picked|select|selected|selecting|choosing|going with|go with|going for|opt for|settle on|"
    r"leaves|leaving|left with|leaves us with|leaving us with|leaves only|leaving only|correspond(?:s|ing)? to|matches|"
    r"match|conclude|goes to|points to)\s+"
    r"(?:(?:us|me|with|only|the|answer|option|choice|letter|is|that|it|it's|statement)\s+){0,4}",
    re.IGNORECASE,
)
CONCLUDED = re.compile(  # the letter must end its clause
    r"(?:\b(?:so|hence|thus|therefore|then|it['\u2019]s|it is|must be|we get|left is|for sure|definitely|certainly)|"
    r"####|<answer>)[\s,:]*",
    re.IGNORECASE,
)
CLAUSE_END = re.compile(r"[)\]\"'\u201d]*\s*(?:[.,;!<]|\n|\Z)")
PART_HEADING = re.compile(  # "(b) If the coin is fair ...": a part of the question, no answer
    r"^[ \t]*\([A-Za-z]\)[ \t]+(?=(?:if|suppose|assume|let|when|given|consider|find|show|prove|compute|what|how)\b)",
    re.IGNORECASE | re.MULTILINE,
)
IS_RIGHT = re.compile(
    r"[)\].:,'\"]*[^.\n]{0,100}?\b(?:is|are|would be|must be|seems|appears to be)\s+"
    r"(?:(?:therefore|thus|clearly|indeed|definitely|probably|likely|actually|also|hence|then|most|by far|in fact|"
    r"considered|our)\s+){0,3}(?:the\s+)?(?:(?:most|only|single)\s+)?(?:\w+ly\s+)?"
    r"(?:correct|right|best|true|accurate|appropriate|likely|answer|our answer|one)\b",
    re.IGNORECASE,
)
AMBIGUOUS = re.compile(
    r"[)\].\"']*\s*(?:,|/|&|\bor\b|\band\b|,\s*(?:or|and)\b)\s*"
    r"(?:(?:option|choice|both|possibly|maybe|perhaps)\s+)?"
    r"[(\[]?(?P<other>[A-Z])(?![\w'\u2019+])[)\]]?(?!\s*(?:is|are|was|being|would|does|can)\b)"
)
THINKER = re.compile(r"\s+(?:think|believe|would|will|am|have|can|do|don|know|guess|choose|was|say|want|need|feel)\b")
CONNECTIVE = re.compile(
    r"\s+(?:because|since|as|and|or|is|which|with|for|due|but|where|given|from|based|in|to|rather|not|by|if|so)\b"
)
CONCLUSION = re.compile(r"^\s*(?:so|thus|hence|therefore|then|=>|->|>)[\s,:]*", re.IGNORECASE)


class Letters:
    """The valid letters of one item and the patterns that find them."""

    def __init__(self, count: int) -> None:
        """`count` choices: letters A to chr(64 + count)."""
        upper = "".join(chr(65 + i) for i in range(count))
        either = upper + upper.lower()
        self.start = re.compile(  # a letter at a given place: bracketed, or not glued to a word
            rf"[(\[{{]\s*(?P<in>[{either}])\s*[)\]}}]|(?P<up>[{upper}])(?![\w+#]|['\u2019-]\w)|"
            rf"[(\[{{]\s*(?P<open>[{upper}])(?=\s*(?:[,/&]|\band\b|\bor\b))|"
            rf"(?P<low>[{upper.lower()}])(?=\s*(?:[).\]:,;\"'}}]|$|\n))"
        )
        self.mention = re.compile(
            rf"[(\[]\s*(?P<in>[{either}])\s*[)\]]|\b(?i:option|choice|answer|ans)\b[.:]?\s*[(\[\"']?"
            rf"(?P<named>[{upper}]|[{upper.lower()}](?![\w'\u2019]))(?![\w+#])"
        )
        self.alone = re.compile(rf"(?<![\w'\u2019.+=-])(?<!= )(?P<up>[{upper}])(?![\w+#]|['\u2019-]\w|\.\w|\s*=)")
        self.opening = re.compile(
            rf"[\s\"'\u201c]*(?:(?:option|choice|answer)\s+)?(?:[(\[]\s*(?P<in>[{either}])\s*[)\]]|"
            rf"(?P<out>[{either}])(?=\s*[).:,\"'\u201d]|\s*$|\s*\n|\s+(?:[{_DASH}]|because|since)))",
            re.IGNORECASE,
        )


def letter_of(match: re.Match[str]) -> str:
    """The letter that a pattern of `Letters` caught, in upper case."""
    return next(str(group) for group in match.groups() if group).upper()
