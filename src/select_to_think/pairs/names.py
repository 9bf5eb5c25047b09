"""Words that the domains share. Every one of them is a single token of the pair's tokenizer."""

from __future__ import annotations

NAMES = tuple(
    "Ann Bob Cid Dan Eva Finn Gus Hana Ivo Jon Kim Lea Max Nia Olga Pat Quin Ron Sam Tess Uma Vic Wim Xena Yan Zoe "
    "Amir Bela Cleo Dora Emil Fay Gina Hugo Ida Juan Kira Liam Mona Nils".split()
)
ITEMS = tuple("pens cups books coins stamps shells apples cards keys hats".split())
EVENTS = tuple("market fair dance concert race parade supper lecture meeting match play auction".split())
WEEKDAYS = tuple("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split())
