"""The words of the synthetic catalogue: what an item is can be read from its title.

Every function takes index arrays and gives strings without a loop over items; distinct indices
give distinct names.
"""

from __future__ import annotations

import numpy as np

from recjax.data.interactions import STRING, strings

# Department -> kinds of product. No kind is in two departments; all take a plural s.
KINDS = {
  "Kitchen": "Kettle Skillet Saucepan Colander Ladle Grater Toaster Blender Juicer Corkscrew",
  "Camping": "Tent Hammock Lantern Rucksack Tent-Peg Canteen Stove Tarpaulin Headlamp Cot",
  "Music": "Guitar Ukulele Violin Clarinet Trumpet Accordion Drum Metronome Banjo Flute",
  "Office": "Stapler Notebook Calculator Whiteboard Envelope Folder Highlighter Shredder Inkpad "
  "Lectern",
  "Garden": "Trowel Rake Wheelbarrow Hosepipe Flowerpot Planter Sprinkler Hoe Birdbath Spade",
  "Cycling": "Saddle Handlebar Pedal Derailleur Pannier Chainring Crankset Mudguard Tyre Jersey",
  "Fishing": "Reel Lure Hook Bobber Landing-Net Wader Sinker Tackle-Bag Swivel Rod-Holder",
  "Nursery": "Crib Pacifier Stroller Bib Rattle Highchair Diaper-Bag Playmat Teether Bassinet",
  "Pets": "Pet-Bed Aquarium Birdcage Litter-Tray Kennel Scratching-Post Collar Terrarium Feeder "
  "Muzzle",
  "Photography": "Tripod Lens-Cap Shutter Flashgun Filter Viewfinder Reflector Gimbal Enlarger "
  "Light-Meter",
  "Painting": "Easel Crayon Palette Paint-Roller Pastel Gouache Sketchpad Stencil Primer Airgun",
  "Sewing": "Thimble Bobbin Pincushion Needle Zipper Button Ribbon Thread Mannequin Seam-Ripper",
  "Beauty": "Lipstick Mascara Concealer Eyeliner Moisturizer Serum Cleanser Bronzer Toner Perfume",
  "Bathroom": "Towel Loofah Showerhead Soap-Tray Faucet Bathmat Washbasin Mirror Plunger Bathrobe",
  "Lighting": "Chandelier Sconce Floodlight Bulb Dimmer Lampshade Nightlight Spotlight Pendant "
  "Torchiere",
  "Woodworking": "Chisel Plane Clamp Mallet Sander Router Lathe Bandsaw Dowel Sawhorse",
  "Fitness": "Dumbbell Treadmill Kettlebell Barbell Yoga-Mat Jump-Rope Hula-Hoop Stepper "
  "Trampoline Rowing-Machine",
  "Gaming": "Joystick Gamepad Headset Console Dartboard Chessboard Cue Dice-Set Puzzle Pinball",
  "Luggage": "Suitcase Duffel Garment-Bag Passport-Case Wallet Briefcase Holdall Tote Trolley "
  "Neck-Pillow",
  "Baking": "Whisk Rolling-Pin Muffin-Tin Cake-Stand Spatula Sifter Mixer Piping-Bag Ramekin "
  "Dough-Scraper",
}
MODIFIERS = ("Compact", "Professional", "Junior", "Deluxe", "Classic")
LINES = (
  *("Aurora", "Summit", "Harbor", "Meadow", "Comet", "Willow", "Ember", "Glacier", "Falcon"),
  *("Orchid", "Canyon", "Juniper", "Mirage", "Zephyr", "Copper", "Lagoon", "Sequoia", "Tundra"),
)
FINISHES = (
  *("Black", "Silver", "Crimson", "Ivory", "Teal", "Walnut", "Brushed Steel", "Matte White"),
  *("Navy", "Olive", "Amber", "Graphite"),
)
ONSETS = ("Vel", "Kor", "Bran", "Tal", "Mir", "Zen", "Lor", "Pax", "Dun", "Fer", "Gal", "Hox")
MIDDLES = ("ta", "ne", "vi", "ro", "mu", "sa", "le", "di", "ko", "pe", "ba", "ju", "fi", "go")
ENDINGS = ("nor", "lix", "den", "vane", "mark", "ric", "tona", "well", "sk", "by", "lund", "que")

MAX_DEPARTMENTS, MAX_KINDS, MAX_MODIFIERS = len(KINDS), 10, len(MODIFIERS)
MAX_BRANDS = len(ONSETS) * len(MIDDLES) * len(ENDINGS)  # over all departments
MAX_ROW = 99_999_999  # the last user or item that gets an id

_SYMBOLS = np.array([ord(c) for c in "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"], np.uint32)
_DEPARTMENTS = strings(KINDS)
_KINDS = strings([k.replace("-", " ") for row in KINDS.values() for k in row.split()])
_MODIFIERS, _LINES, _FINISHES = strings(MODIFIERS), strings(LINES), strings(FINISHES)
_BRANDS = strings([a + b + c for a in ONSETS for b in MIDDLES for c in ENDINGS])


def departments(department: np.ndarray) -> np.ndarray:
  return _DEPARTMENTS[department]


def kinds(department: np.ndarray, kind: np.ndarray) -> np.ndarray:
  return _KINDS[department * MAX_KINDS + kind]


def modifiers(modifier: np.ndarray) -> np.ndarray:
  return _MODIFIERS[modifier]


def finishes(u: np.ndarray) -> np.ndarray:
  """From numbers in [0, 1)."""
  return _FINISHES[(u * len(FINISHES)).astype(np.int64)]


def brands(brand: np.ndarray) -> np.ndarray:
  """Neighbours do not sound alike: 1247 has no divisor in common with their number."""
  return _BRANDS[brand * 1247 % MAX_BRANDS]


def lines(line: np.ndarray) -> np.ndarray:
  """Aurora, Summit, ..., Tundra, Aurora 2, ..."""
  word, turn = line % len(LINES), line // len(LINES)
  turns = strings(["", *(f" {t}" for t in range(2, 2 + int(turn.max(initial=0))))])
  return _LINES[word] + turns[turn]


def user_ids(row: np.ndarray) -> np.ndarray:
  """U00000001 and so on."""
  return _spell("U", row, base=10, width=8)


def item_ids(row: np.ndarray) -> np.ndarray:
  """B00 and seven more, scattered over all there are: the order of ids tells nothing."""
  scattered = np.asarray(row, np.int64) * 48_431_234_069 % 36**7  # prime to 36; below 2^63
  return _spell("B00", scattered, base=36, width=7)


def _spell(prefix: str, number: np.ndarray, *, base: int, width: int) -> np.ndarray:
  number = np.asarray(number, np.int64)
  digits = number[:, None] // base ** np.arange(width - 1, -1, -1) % base  # [N, width]
  codes = np.empty((len(number), len(prefix) + width), np.uint32)
  codes[:, : len(prefix)] = [ord(c) for c in prefix]
  codes[:, len(prefix) :] = _SYMBOLS[digits]
  return codes.view(f"U{codes.shape[1]}")[:, 0].astype(STRING)
