"""Words that names of drawn worlds are made of: no keyword of SQL, no two one letter apart."""

from __future__ import annotations

# One thing each; a table is called by its plural.
_THINGS = """
judge soup cedar ribbon bowl school pirate trout plate willow office canyon carrot fence almond
rock camera jacket hawk clock violet cream sofa market lemon smoke rocket port wall summer ring
shrimp aunt tulip salt triangle lawyer wheel guest harbor arrow farmer chair cement root giraffe
wheat iron lamp wallet dolphin wagon diamond goose falcon night onion eagle hiking angel teacher
coffee lizard leather planet fruit gorilla cave koala shirt face proud shallow purse prison
cricket boston mountain crow thin flute ceiling pilot clean west steel penguin cabinet friend
garlic clown poker thumb winter door raft doctor lobster truck repair neighbor dawn turtle hook
tame snake robin east smile weasel
"""
_WORDS = """
yellow cotton berry cherry fresh fancy cairo spinach turkey silver quiet wolf scarlet library
thursday plastic hockey daisy strong rough bright friday saturday tomato lily radio cliff stranger
banana town father monk beaver prince tongue eleven tuesday comet sunday miner climb farm white
monday tower crab corner dust draw ivory engine poem garden brother coal boxing necklace blanket
potato mother camel crystal july soldier child cabbage autumn gentle clay sparrow leaf fishing
seven priest moth vienna sand purple dull emerald black copper skiing october june pine student
circle bucket sweet piano uncle laugh field mango worm tide weed path taxi corn star moon bean
drum apple throw lettuce tunnel marble smooth violin seal barley kitchen spider shelf morning
sailor badger whale grape sister hero ghost hotel zebra queen deep dance tiger drawer brick tooth
goat bush gray floor blood pepper shop ocean mouse lake april soccer wrench duck brave dove water
station mirror cottage elephant cloud melon belt kettle otter button frog tuna voice common hunter
rice honey flower heavy neck juice plum head swan snail island thread desert tree rose thunder
swim paper birch stew fisher letter bread tokyo cloth bison early guitar river curtain brown
window knife museum south bone weak paint ladder shield hill canoe shadow phone basket olive
shovel palace stone january chest salmon quick desk baker empty broom attic dirty green trumpet
evening valley rabbit torch butter cheese merchant ruby butcher writer baby donkey fire scarf
berlin spoon street golden barrel sugar pear drill shoulder simple maple gate knee granite novel
bridge milk elbow theater cellar raven sword wind singer city lantern oven painter wasp dragon
spring heart hammer four candle amber denver buffalo crimson orange toad velvet cousin beer branch
thief page hospital london beetle wool sailing horse skin hare carpet mole pencil jump bicycle
carry sheep watch august blue airport lion gold temple forest song mayor storm beach snow panda
bark actor squirrel build rubber shark anchor bronze castle angry center giant cart village twenty
rain fork palm coast thick church guard glove needle edge bottle lime rooster meadow happy young
madrid captain walnut
"""

TABLES = tuple(f"{word}s" for word in _THINGS.split())
"""Names of tables."""
WORDS = tuple(_WORDS.split())
"""Names of columns and values: any of them may be either, in any world."""
