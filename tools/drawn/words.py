"""Word lists, random strings, and the rules that keep training and held-out pictures apart.

Held-out pictures differ from training pictures in three ways:
  seeds       below HELD_OUT are never trained on;
  words       every fifth word of each list (by checksum) is printed only in held-out pictures;
  combinations every eighth combination of two attributes (wall and roof colour, bar colour and number of bars, …)
              appears only in held-out pictures; each attribute alone is trained on.
"""
import random
import string
import zlib

HELD_OUT = 1_000_000

VIVID = ["red", "orange", "yellow", "green", "blue", "purple", "pink", "cyan"]
DARK = ["red", "green", "blue", "purple", "brown", "black"]

WORDS = (
    "able about above acid across act add after again age ago air all also among angle animal answer apple area arm "
    "army art ask atom away baby back bad ball band bank bar base bat bath bay bear beat bed bee bell belt best big "
    "bird bit black block blood blue board boat body bone book born both bowl box boy brain bread brick bridge bright "
    "bring brown build burn bus busy cake call camp can cap car card care carry case cat catch cell chair chart check "
    "child city clay clean clear clock close cloud coal coast coat code cold color come cook cool copper corn cost "
    "count cover cow crop cross cry cup cut dance dark data day deal deep deer desk dish dog door dot draw dream dress "
    "drink drive dry duck dust early earth east easy edge egg eight end energy enter even event every exam eye face "
    "fact fall farm fast father field fig fill film final find fine finger fire first fish five flag flat floor flow "
    "flower fly fog food foot forest form fox free fresh frog fruit full game garden gas gate girl glass goat gold "
    "good grain grass gray great green group grow guide hand happy harbor hard hat head heat heavy help herb high hill "
    "hold home honey horse hotel hour house ice idea iron island jacket job join jump keep key kind king kitchen knee "
    "lake lamp land large late leaf learn left lemon letter level light line lion list little long low lunch main make "
    "map mark market meal meat metal milk mill mind mine mint moon more morning mother motor mouse mouth music nail "
    "name near neck nest net new nice night nine noise north nose note number oak ocean oil old one onion open orange "
    "order oven owl page paint pair paper park part past path pear pen people pepper phone piano pig pilot pink pipe "
    "place plain plan plant plate play point pond pool port pot price print pump queen quick quiet rabbit race rain "
    "raw read red rent report rest rice rich ring rise river road rock roof room root rope rose round row rule run sad "
    "safe salt sand save sea seed seven shape sheep ship shirt shop short silk silver six skin sky sleep slow small "
    "smoke snow soap sock soft soil song soup south space spoon sport spring star steel stem stone storm street sugar "
    "sun sweet swim table tail tall tea team ten tent test three tide tiger time tin top town toy train tree trip truck "
    "two under valley view village voice walk wall warm wash water wave week west wheat wheel white wide wild wind "
    "window wine winter wolf wood wool word work yard year yellow young zero zone").split()
NAMES = ("Ada Ben Cara Dan Eva Finn Gina Hugo Ida Jan Kim Leo Mia Nora Omar Pia Ravi Sara Tom Uma Vera Will Yuki Zoe "
         "Alma Boris Chloe Dora Emil Fay Gus Hana Ivan June Karl Lena Max Nina Otto Paul Rosa Sven Tara Vic").split()
TOPICS = ("Sales Visitors Rainfall Users Orders Exports Births Votes Scores Tickets Calls Costs Income Traffic Profit "
          "Weight Height Speed Output Demand Budget Points Grades Energy Storage").split()
MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
WEEKDAYS = "Mon Tue Wed Thu Fri Sat Sun".split()
CATEGORIES = [WEEKDAYS[:5], MONTHS[:5], list("ABCDE"), ["Fig", "Kiwi", "Pear", "Plum", "Lime"],
              ["Oslo", "Rome", "Lima", "Cairo", "Delhi"], ["Q1", "Q2", "Q3", "Q4", "Q5"],
              ["Bus", "Car", "Bike", "Train", "Boat"], MONTHS[7:], ["2021", "2022", "2023", "2024", "2025"]]


def held_word(word):
    """Says whether a list word is kept for held-out pictures."""
    return zlib.crc32(word.encode()) % 5 == 0


def held_pair(thing, attribute):
    """Says whether a combination of a thing (with its context) and an attribute is kept for held-out pictures."""
    return zlib.crc32(f"{thing}|{attribute}".encode()) % 8 == 0


def _split(words):
    return [w for w in words if not held_word(w)], [w for w in words if held_word(w)]


LISTS = {name: _split(ws) for name, ws in (("words", WORDS), ("names", NAMES), ("topics", TOPICS))}


def listed(r, name, held):
    """Draws from a list: training words for training pictures, held-out words for held-out ones."""
    return r.choice(LISTS[name][held])


_VOWELS, _CONSONANTS = "aeiou", "bcdfghjklmnpqrstvwxyz"


def random_word(r, lo=2, hi=8):
    """A string outside every list: syllables, plain random letters, or letters with digits."""
    n = r.randint(lo, hi)
    style = r.random()
    if style < .35:
        w = "".join(r.choice(_CONSONANTS if (i + n) % 2 else _VOWELS) for i in range(n))
    elif style < .85:
        w = "".join(r.choices(string.ascii_lowercase, k=n))
    else:
        w = "".join(r.choices(string.ascii_lowercase + string.digits, k=n))
    case = r.random()
    return w if case < .7 else w.capitalize() if case < .9 else w.upper()


def number(r, digits=3):
    """A number as printed: small, larger, decimal, percent or money."""
    k = r.random()
    if k < .6:
        return str(r.randint(0, 10 ** r.randint(1, digits) - 1))
    if k < .8:
        return f"{r.randint(0, 99)}.{r.randint(0, 9)}"
    return f"{r.randint(0, 100)}%" if k < .9 else f"${r.randint(1, 999)}"


def article(word):
    """"a" or "an" before a word."""
    return "an" if word[0] in "aeiouAEIOU" else "a"


def rng(*parts):
    """A generator seeded by any values, stable over Python versions."""
    return random.Random(zlib.crc32(repr(parts).encode()))
