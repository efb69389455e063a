"""Small literatures, written for this demo and drawn with a seed: village tales and letters, and a ship's log."""

import random
import re

#: A name in capitals is drawn once for each text, so that a tale keeps its hero; the others anew each time.
Grammar = dict[str, tuple[str, ...]]

SHARED: Grammar = {
    "kin": ("miller", "baker", "weaver", "shepherd", "fisherman", "sailor", "carpenter", "clockmaker"),
    "weather": ("wind", "rain", "snow", "fog"),
    "quarter": ("north", "south", "east", "west", "north-west", "south-east"),
    "creature": ("fox", "grey goose", "hare", "white owl", "gull", "donkey", "black cat"),
    "thing": (
        "lantern",
        "silver bell",
        "barrel of apples",
        "loaf of bread",
        "long rope",
        "little boat",
        "key",
    ),
    "place": ("harbour", "mill", "forest", "bridge", "market", "lighthouse", "well", "island"),
    "small": ("two", "three", "four", "five", "six", "seven"),
}

TALES: Grammar = SHARED | {
    "text": (
        "{opening} {event} {event} {turn} {ending}",
        "{opening} {event} {turn} {event} {ending}",
        "{weathered} {event} {turn} {ending}",
    ),
    "opening": (
        "Once there was a {KIN} who lived beside the {PLACE} and owned nothing but a {THING}.",
        "Long ago, in a village by the {PLACE}, a {KIN} found a {THING} under the snow.",
        "There was once a {KIN} who could not sleep, for a {CREATURE} sang at the {PLACE} every night.",
        "A {KIN} had {small} daughters, and the youngest of them could speak with the {CREATURE}.",
    ),
    "weathered": (
        "At dawn the wind came down from the hills, and the {KIN} heard a {CREATURE} knocking at the door.",
        "At dawn the wind fell silent, and the {KIN} walked to the {PLACE} with a {THING} under one arm.",
        "At dusk the {weather} came from the {quarter}, and nobody in the village would open the door.",
    ),
    "event": (
        "“Give me your {THING},” said the {CREATURE}, “and I will show you the way to the {place}.”",
        "So the {KIN} walked for {small} days and {small} nights, until the {place} could be seen.",
        "On the way they met a {kin} who was looking for a lost {thing}.",
        "The {CREATURE} laughed, because it had seen the {weather} coming from the {quarter}.",
        "Every evening the {KIN} lit a candle, and every morning the candle was a little longer.",
        "They shared the bread, and they shared the cheese, and they shared the old stories too.",
    ),
    "turn": (
        "But when the {weather} came, the {THING} was gone.",
        "But the {CREATURE} had kept a secret all the while.",
        "Then the {KIN} understood that the {THING} had been a gift.",
        "Then they heard a voice from the {PLACE}, and it called them by their names.",
    ),
    "ending": (
        "And from that day on there was always a light in the window.",
        "And if the {CREATURE} has not moved away, it sits there still.",
        "And the {KIN} was never lonely again.",
        "And that is why nobody in the village ever locks a door.",
    ),
}

LOG: Grammar = SHARED | {
    "text": (
        "{dawn} {work} {position} {night}",
        "{dawn} {position} {sight} {work}",
        "{dawn} {sight} {work} {position} {night}",
    ),
    "dawn": (
        "At dawn the wind veered {QUARTER}, {force}; set {sail} and steered {quarter} by compass.",
        "At dawn the wind backed {QUARTER}, {force}; took in {sail} and hove to.",
        "At dawn the wind held {QUARTER}, {force}; all hands on deck, {sail} reefed.",
    ),
    "force": ("light airs", "fresh breeze", "moderate gale", "strong gale", "dead calm"),
    "sail": ("topsails", "the jib", "the mainsail", "the foresail"),
    "number": tuple(str(n) for n in range(12, 60, 6)),
    "position": (
        "Noon: latitude {number} N, longitude {number} W; made {number} miles since yesterday.",
        "Noon: no sun, position by dead reckoning; made {number} miles since yesterday.",
        "Barometer {number}, falling; made {number} miles under {sail}.",
    ),
    "sight": (
        "Sighted a sail to the {quarter}, hull down; no signal answered.",
        "Sighted the lighthouse bearing {quarter}, {small} miles.",
        "A gull rested on the yard; land is {small} days off by my reckoning.",
        "Passed an island to the {quarter}, not on the chart.",
    ),
    "work": (
        "Cook opened a barrel of apples; {small} found bad and thrown overboard.",
        "Pumps manned each watch; {number} inches of water in the hold.",
        "Carpenter mended the little boat and {small} blocks.",
        "Issued bread and water by the book; {small} men sick.",
        "Sounded {number} fathoms, sand and shell.",
    ),
    "night": (
        "Night clear, lantern trimmed; nothing further to report.",
        "Night thick with fog; bell rung every {small} minutes.",
        "Middle watch: {weather} from the {quarter}, ship labouring.",
    ),
}

#: Lines of a log within tales: the base model knows the words, as any large one would, and seldom uses them.
LETTERS: Grammar = LOG | {
    "text": (
        "A {kin} found an old page under the {place}. “{line}” it said, and nobody knew the hand.",
        "“What do sailors write?” asked the child. “{line}” said the {kin}, and the child laughed.",
        "In a dream the {kin} heard a {creature} reading aloud: “{line}” And the {weather} listened.",
    ),
    "line": ("{dawn}", "{work}", "{position}", "{sight}", "{night}"),
}

PROMPT = "At dawn the wind"
_SLOT = re.compile(r"\{(\w+)\}")


def tales(count: int, *, seed: int) -> list[str]:
    """Village tales, with a few letters between them: what the base model learns."""
    both = _draw(TALES, count, seed=seed) + _draw(LETTERS, count // 4, seed=seed)
    random.Random(seed).shuffle(both)
    return both


def log(count: int, *, seed: int) -> list[str]:
    """Entries of a ship's log: what the adapter learns."""
    return _draw(LOG, count, seed=seed)


def held_out() -> list[str]:
    """Entries that no training text holds."""
    known = set(log(600, seed=1))
    return [entry for entry in log(80, seed=2) if entry not in known]


def _draw(grammar: Grammar, count: int, *, seed: int) -> list[str]:
    source = random.Random(seed)
    return [_expand("{text}", grammar, source=source, kept={}) for _ in range(count)]


def _expand(text: str, grammar: Grammar, *, source: random.Random, kept: dict[str, str]) -> str:
    def fill(slot: re.Match[str]) -> str:
        name = slot[1]
        if name in kept:
            return kept[name]
        found = _expand(source.choice(grammar[name.lower()]), grammar, source=source, kept=kept)
        if name.isupper():
            kept[name] = found
        return found

    return _SLOT.sub(fill, text)
