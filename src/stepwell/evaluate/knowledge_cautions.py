"""Cautions of the company of `knowledge_corpus`, questions that name what they are about, and
questions that do not, however near their words come."""

from __future__ import annotations

from stepwell.evaluate.knowledge_corpus import Item
from stepwell.knowledge.payload import ErrorRule, Gotcha


def _caution(about: str, rule: str, triggers: tuple[str, ...], *asked: str) -> Item:
    return Item(f"gotcha {about}", Gotcha(about=about, rule=rule), asked, triggers)


CAUTIONS: tuple[Item, ...] = (
    _caution("rides.fare_cents", "Before 2023 in whole euros.", ("fare",),
             "What was the average fare in 2022?", "Sum the fares of all rides in May.",
             "Is fare_cents with or without VAT?", "Highest fare ever paid?",
             "Which fars were above ten euros?"),
    _caution("bikes.status", "Nightly copy. Use bikes.condition.", ("status of bikes",),
             "What is the status of bikes in depot 3?", "Count bikes by status.",
             "Show each bike and its status.", "Which status does bike 4711 have?",
             "How many bikes have the status lost?"),
    _caution("stations.docks", "Of today; history is in dock_changes.", ("dock count",),
             "How many docks did stations have in 2021?", "Which station has most docks?",
             "Docks per station, please.", "Is the dock count of 2023 known?",
             "Show stations with fewer than ten docks."),
    _caution("weekend", "Saturdays from 00:00 to Sundays 24:00, local time; timestamps are UTC.",
             (), "How many rides do we have on a weekend?", "Compare weekends of May and June.",
             "Weekend revenue?", "Which weekend was the busiest?",
             "Did the wekend of 3 May have rain?"),
    _caution("refund", "Booked in the month after the trip.", ("refunds", "refunded"),
             "How much did we refund in April?", "List refunds above 20 euros.",
             "Which trips were refunded twice?", "Refund by reason, please.",
             "Is the refund for trip 99 booked?"),
    _caution("e-bike", "Only since 2022 told apart from bikes with gears.", ("electric bike",),
             "How many e-bikes do we have?", "Distance covered by e-bike riders?",
             "Which electric bikes are in the workshop?", "E-bike share of trips in 2021?",
             "Are electric bikes faster?"),
    _caution("test accounts", "Have refs that begin with T; leave them out.", (),
             "How many test accounts are there?", "Exclude the test accounts from June.",
             "Does this include a test account?", "Who made the test accounts?",
             "Which test acounts rode last week?"),
    _caution("weather.rain_mm", "Of the airport, not of the city.", ("rain",),
             "Rides on days with rain?", "Does rain lower the number of trips?",
             "What is the unit of rain_mm?", "Millimetres of rain in March?",
             "Which rain gauge do we use?"),
    _caution("district", "Borders changed in 2020.", ("districts",),
             "Trips per district in 2019?", "Which district is growing?",
             "List all districts.", "Does the district of a station change?",
             "Rides between distrcits?"),
    _caution("cargo", "Tariff of its own, not in fare tables.", ("cargo bike",),
             "What do cargo bikes cost?", "Trips by cargo bike in May?",
             "How heavy may cargo be?", "Is cargo popular in the north?",
             "Which cargo bikes are out?"),
    Item("error no such column", ErrorRule(signature="no such column: rides.station",
         fix="Use from_station or to_station."),
         ("Trips by rides.station?", "Group rides by station.",
          "Why does rides station fail?", "Use the station column of rides."),
         ("rides + station",)),
)  # fmt: skip

SILENT: tuple[str, ...] = (
    "How many people work for us?", "Who is on shift tomorrow in depot 2?",
    "Which parts did we order in May?", "Average age of our customers?",
    "List mechanics by name.", "What is the longest trip of all time?",
    "How many promo codes were used in April?", "Which membership plan sells best?",
    "When does a contract end?", "How many kilometres were covered in 2023?",
    "Which bikes need new tyres?", "How far is an average trip?",
    "Give me the invoices that are overdue.", "How many trips ended at the main square?",
    "Where do most people live?", "What did advertising cost us?",
    "Revenue by payment method?", "How many workers are ill?",
    "Which depots are open on holidays?", "How many trips were longer than an hour?",
    # Words that come near a trigger and do not name it.
    "Is the affair with the mayor over?", "How many days of the week are free for riders?",
    "What did the doctor say about the crew?", "Which documents did we send to the city?",
    "How many trains stop at the north gate?", "Did we train the new mechanics?",
    "What is the state of the contract with the city?", "Which fund paid for the new depot?",
    "How many funds are left?", "Is the statue near depot 1 lit at night?",
    "Show accounts that were closed.", "How was the test of the new lock?",
    "Which tests did the new bikes pass?", "Are bikes electrically locked?",
    "Who carries the boxes to the depot?", "Carton sizes for parts?",
    "Week and end of each campaign?", "How strict are the rules on helmets?",
    "Restrict the list to May.", "What is the grain of the weather table?",
    "Which fairs did we visit?", "Farewell gifts: what did we spend?",
    "How much does a duck cost?", "Is depot 4 stationary?",
)  # fmt: skip

MISSPELT = frozenset(
    {
        "Which fars were above ten euros?",
        "Did the wekend of 3 May have rain?",
        "Which test acounts rode last week?",
        "Rides between distrcits?",
    }
)
"""Counted apart."""
ALSO = {"Did the wekend of 3 May have rain?": ("gotcha weather.rain_mm",)}
"""Question -> cautions that it names besides the one that it is listed with."""
