"""Words for names, titles and descriptions.

An item's words depend on its categories and its creator, so text carries signal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator.arrays import Indices
from simulator.counters import RandomField


@dataclass(frozen=True, slots=True)
class Category:
    name: str
    subjects: tuple[str, ...]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _category(name: str, subjects: str) -> Category:
    return Category(name, _words(subjects))


CATEGORIES = (
    _category("Cooking", "Kitchen Bread Saffron Oven Orchard Supper Spice Dumpling Broth Market"),
    _category(
        "Travel", "Harbour Railway Island Passport Caravan Border Lighthouse Ferry Hotel Desert"
    ),
    _category("Music", "Chorus Violin Rhythm Cellar Anthem Drummer Melody Orchestra Ballad Stage"),
    _category(
        "History", "Empire Castle Archive Treaty Dynasty Ruin Crown Revolt Chronicle Fortress"
    ),
    _category(
        "Science", "Laboratory Atom Comet Genome Particle Microscope Fossil Theorem Vaccine Orbit"
    ),
    _category(
        "Comedy", "Neighbour Mishap Wedding Prank Landlord Parrot Disguise Misfit Office Blunder"
    ),
    _category(
        "Mystery", "Shadow Alibi Cipher Witness Fog Manor Footprint Inspector Locket Vanishing"
    ),
    _category("Nature", "River Forest Wolf Meadow Glacier Heron Reef Savanna Otter Monsoon"),
    _category(
        "Football", "Derby Striker Keeper Stadium Penalty League Captain Terrace Transfer Final"
    ),
    _category(
        "Technology", "Circuit Robot Network Startup Satellite Kernel Sensor Drone Battery Console"
    ),
    _category("Romance", "Letter Summer Promise Rose Ballroom Reunion Stranger Moonlight Vow Kiss"),
    _category("Gaming", "Dungeon Quest Pixel Arena Speedrun Guild Arcade Dragon Puzzle Tournament"),
    _category(
        "Fitness", "Marathon Stretch Barbell Stamina Coach Sprint Balance Rowing Breath Summit"
    ),
    _category(
        "Design", "Chair Poster Typeface Pavilion Facade Ceramic Palette Blueprint Lamp Interior"
    ),
    _category("Gardening", "Tulip Greenhouse Hedge Compost Seedling Bonsai Trellis Herb Pond Bulb"),
    _category(
        "Cinema", "Director Montage Matinee Screenplay Reel Premiere Stunt Sequel Close-up Scene"
    ),
    _category(
        "Fashion", "Denim Runway Tailor Silk Vintage Button Collection Velvet Atelier Sneaker"
    ),
    _category(
        "Finance", "Ledger Pension Dividend Bubble Auction Budget Mortgage Broker Tax Venture"
    ),
    _category(
        "Cycling", "Peloton Gravel Climb Saddle Velodrome Commute Descent Spoke Tandem Valley"
    ),
    _category(
        "Philosophy", "Paradox Virtue Dialogue Doubt Freedom Sceptic Ethics Reason Stoic Essence"
    ),
    _category("Crafts", "Yarn Loom Origami Quilt Chisel Pottery Bead Lace Candle Woodcut"),
    _category(
        "Parenting",
        "Cradle Bedtime Playground Toddler Lullaby Teenager Homework Picnic Sibling Crayon",
    ),
    _category("Poetry", "Sonnet Verse Haiku Elegy Stanza Whisper Ode Metaphor Refrain Couplet"),
    _category("Sailing", "Anchor Regatta Mast Compass Keel Tide Schooner Lagoon Rigging Knot"),
)

MOODS = _words(
    """
    Quiet Golden Hidden Northern Electric Gentle Wild Forgotten Crimson Endless Little Brave Silent
    Distant Lucky Broken Secret Modern Ancient Frozen Slow Bright Hungry Restless Velvet Honest
    Curious Lonely Grand Midnight Early Strange Tender Rapid Crooked Sunlit Patient Bold Salty
    """
)

FORMATS = _words("Documentary Stories Diaries Guide Sessions Club Hour Notebook")

_OPENINGS = (
    "A {mood} look at {first} and {second}",
    "Everything about {first}, with a {mood} side of {second}",
    "{mood} thoughts on {first} and {second}",
    "How {first} met {second}: a {mood} account",
    "For those who love {first} more than {second}, a {mood} hour",
)

_NAME_STARTS = _words("Mar Tel Or Bel Kas Lin Ves Dor Sam Ira Jun Fen Hal Nor Pel Riv Sol Tam Wen")
_NAME_MIDDLES = _words("a e i o u an en il or ar")
_NAME_ENDS = _words("do va sen rik lia mond tis dra kov net ley bre ta ros nen")
_STUDIO_KINDS = _words("Studio Media Press House Works Collective")

_MOODS_OF_A_CREATOR = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemText:
    title: str
    description: str


class Writer:
    """Writes the names of creators and the texts of items."""

    def __init__(self, seed: int) -> None:
        self._titles = RandomField(seed, "item text")
        self._names = RandomField(seed, "creator name")
        self._moods = RandomField(seed, "creator moods")

    def creator_names(self, creators: Indices) -> list[str]:
        """A readable, distinct name for each creator."""
        parts = (_NAME_STARTS, _NAME_MIDDLES, _NAME_ENDS, _STUDIO_KINDS)
        picks = [
            self._names.below(len(part), creators, lane).tolist() for lane, part in enumerate(parts)
        ]
        return [
            f"{_NAME_STARTS[a]}{_NAME_MIDDLES[b]}{_NAME_ENDS[c]} {_STUDIO_KINDS[d]} {creator}"
            for a, b, c, d, creator in zip(*picks, creators.tolist(), strict=True)
        ]

    def item_texts(
        self, items: Indices, *, creators: Indices, category: Indices, second_category: Indices
    ) -> list[ItemText]:
        """The texts of `items`. Arrays are int64[n]; `second_category` is -1 for none."""
        names = self.creator_names(creators)
        other = np.where(second_category < 0, category, second_category)
        picks = zip(
            self._creator_moods(items, creators, lane=0),
            self._creator_moods(items, creators, lane=1),
            self._subjects(items, category, lane=2),
            self._subjects(items, other, lane=3),
            self._titles.below(len(FORMATS), items, 4).tolist(),
            self._titles.below(len(_OPENINGS), items, 5).tolist(),
            strict=True,
        )
        return [
            ItemText(
                title=f"{mood} {first} {FORMATS[style]}",
                description=_sentence(_OPENINGS[opening], tone, first, second, name),
            )
            for (mood, tone, first, second, style, opening), name in zip(picks, names, strict=True)
        ]

    def _creator_moods(self, items: Indices, creators: Indices, lane: int) -> list[str]:
        # A creator keeps to a few moods of its own, so that its titles resemble each other.
        slot = self._titles.below(_MOODS_OF_A_CREATOR, items, lane)
        word = self._moods.below(len(MOODS), creators * _MOODS_OF_A_CREATOR + slot)
        return [MOODS[i] for i in word.tolist()]

    def _subjects(self, items: Indices, category: Indices, lane: int) -> list[str]:
        draws = self._titles.uniform(items, lane).tolist()
        subjects = [CATEGORIES[i].subjects for i in category.tolist()]
        return [words[int(u * len(words))] for words, u in zip(subjects, draws, strict=True)]


def _sentence(opening: str, mood: str, first: str, second: str, creator: str) -> str:
    text = opening.format(mood=mood.lower(), first=first.lower(), second=second.lower())
    return f"{text[0].upper()}{text[1:]}, by {creator}."
