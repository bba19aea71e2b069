"""Short common words that the tokenizer keeps as single tokens (with their leading space).

Recall tasks draw keys and values from these, so that one look-up is one token and the model
has to learn *looking up* and not spelling. They are written out here because no word list is
found on every machine.
"""

_NATURE = """
river castle stone lamp forest mountain valley island desert ocean lake beach cloud storm rain
snow thunder wind sun moon star planet comet sky fire smoke ash dust sand mud clay rock hill
cliff cave canyon meadow field garden flower rose lily daisy tulip grass weed bush tree oak pine
maple cedar birch willow palm leaf root branch bark seed fruit apple pear plum peach grape melon
lemon lime orange cherry berry mango banana olive fig date nut almond walnut onion garlic carrot
potato tomato pepper cabbage lettuce spinach bean pea corn wheat rice barley oat rye sugar salt
honey butter cheese milk cream egg bread cake pie soup stew tea coffee juice wine beer water
spring summer autumn winter morning evening night noon dawn dusk shadow wave tide coast harbor
"""

_ANIMALS = """
tiger lion bear wolf fox deer horse cow sheep goat pig dog cat mouse rat rabbit squirrel hare
mole bat owl hawk eagle falcon crow raven robin sparrow swan goose duck hen rooster turkey dove
parrot penguin whale dolphin shark salmon trout tuna crab lobster shrimp snail worm ant bee wasp
fly moth spider beetle cricket frog toad snake lizard turtle dragon camel donkey monkey gorilla
elephant giraffe zebra panda koala otter beaver badger weasel seal walrus moose bison buffalo
"""

_THINGS = """
table chair bench shelf drawer cabinet mirror carpet curtain pillow blanket bed sofa desk door
window wall roof floor ceiling stair ladder bridge tunnel road street path gate fence tower
church temple palace cottage barn mill farm village town city market shop store bank hotel
kitchen cellar attic office school library museum theater hospital prison station airport port
ship boat canoe ferry raft train wagon cart truck bus taxi car bicycle plane rocket engine wheel
anchor rope chain hook needle thread button ribbon cloth silk wool cotton leather coat jacket
shirt dress skirt scarf glove hat cap belt boot shoe sock ring necklace crown sword shield spear
arrow bow knife fork spoon plate bowl cup glass bottle jar pot pan kettle oven stove candle torch
lantern match hammer nail saw drill wrench shovel rake axe brush broom bucket basket box bag
barrel trunk wallet purse coin key lock clock watch bell drum flute violin piano guitar trumpet
harp song dance poem novel letter paper pencil ink book page map globe compass camera radio phone
"""

_PEOPLE = """
king queen prince knight soldier captain sailor pilot driver farmer baker butcher tailor miner
hunter fisher painter singer dancer actor writer poet teacher student doctor nurse lawyer judge
priest monk wizard giant ghost angel baby child brother sister mother father uncle aunt cousin
friend neighbor guest stranger hero thief pirate clown merchant banker mayor guard
head hair face eye ear nose mouth tooth tongue neck shoulder arm elbow hand finger thumb chest
heart bone knee leg foot toe skin blood brain voice dream sleep smile laugh tear
"""

_STUFF = """
gold silver copper iron steel bronze tin lead coal oil gas glassy marble granite diamond ruby
emerald pearl crystal amber ivory wood brick cement plastic rubber velvet
red blue green yellow purple violet pink brown black white gray crimson scarlet golden
north south east west left right round square circle triangle corner edge center
happy sad angry calm brave shy proud kind gentle quiet loud bright dark warm cold hot cool sweet
sour bitter fresh dry wet soft hard smooth rough sharp dull thick thin wide narrow deep shallow
tall short heavy light quick slow early late young old rich poor clean dirty empty full strong
weak wild tame simple plain fancy strange common rare tiny huge
one two three four five six seven eight nine ten eleven twelve twenty hundred thousand million
london paris rome berlin madrid vienna athens cairo tokyo boston dallas denver
monday tuesday wednesday thursday friday saturday sunday january april june july august october
chess poker tennis soccer hockey golf rugby boxing skiing hiking fishing sailing
jump walk climb swim throw catch push pull carry build break repair paint draw cook bake
"""


def common_words() -> list[str]:
    """All the words above, once each, in a fixed order."""
    text = " ".join((_NATURE, _ANIMALS, _THINGS, _PEOPLE, _STUFF))
    return list(dict.fromkeys(text.split()))
