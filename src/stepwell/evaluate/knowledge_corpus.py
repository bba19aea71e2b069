"""A small knowledge base of a bike-sharing company, written by hand, and how people ask for it.

Every entry has four questions in other words than its own: the first two may be looked at while
retrieval is worked on, the last two are only measured. They were written before anything was
measured with them, from the meaning and not from the entry's words; some share no word with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stepwell.knowledge.payload import Document, Metric, Payload, Relationship, Schema, Template

SEEN = 2
"""Questions of each entry that may be looked at."""


@dataclass(frozen=True, slots=True)
class Item:
    """An entry and its questions. `twin`: name of the entry that it is easily taken for."""

    name: str
    payload: Payload
    asked: tuple[str, ...]
    triggers: tuple[str, ...] = ()
    twin: str = ""


def _schema(table: str, columns: Sequence[str], note: str, *asked: str) -> Item:
    return Item(f"schema {table}", Schema(table=table, columns=tuple(columns), note=note), asked)


def _join(left: str, right: str, note: str, *asked: str) -> Item:
    return Item(f"join {left}", Relationship(left=left, right=right, note=note), asked)


def _metric(name: str, expression: str, table: str, note: str, *asked: str) -> Item:
    payload = Metric(name=name, expression=expression, table=table, note=note)
    return Item(f"metric {name}", payload, asked)


def _query(name: str, question: str, sql: str, *asked: str, twin: str = "") -> Item:
    return Item(name, Template(question=question, sql=sql), asked, (), twin)


def _document(title: str, text: str, *asked: str) -> Item:
    return Item(f"document {title}", Document(title=title, text=text), asked)


_SCHEMAS = (
    _schema("riders", ("ref text: number of the account", "joined date: sign-up",
                       "home_city text: where they live", "birth_year integer"),
            "People who have opened an account, whether they ever rode or not.",
            "Which column of riders says where somebody lives?",
            "Where do we keep the sign-up date of an account?",
            "I need the year in which riders were born, what is the field called?",
            "What do we store about riders besides their account number?"),
    _schema("rides", ("ride_no integer", "rider text", "bike text", "from_station text",
                      "to_station text", "started_at timestamp", "ended_at timestamp",
                      "distance_m integer", "fare_cents integer"),
            "One row for each trip, written when the bike is locked again.",
            "What does a row in rides stand for?",
            "Which fields hold start and end of a trip?",
            "Is there a distance in the rides table?",
            "When is a ride written to the database, at unlocking or at locking?"),
    _schema("stations", ("code text", "name text", "district text", "docks integer",
                         "opened date"),
            "Docking places; closed ones stay in the table.",
            "How do I see how many docks a station has?",
            "In which district is each station?",
            "Are closed docking places removed from stations?",
            "Since when has a station been open, is that recorded?"),
    _schema("memberships", ("contract_no integer", "rider text", "plan text", "begins date",
                            "ends date", "monthly_cents integer"),
            "Contracts with a monthly fee; one rider may have had several.",
            "Where is the plan of a membership stored?",
            "Which table knows when a contract ends?",
            "Can one rider show up in memberships more than once?",
            "How much somebody pays a month: which column?"),
    _schema("repairs", ("job_no integer", "bike text", "came_in timestamp", "done timestamp",
                        "fault text", "mechanic text"),
            "Jobs of the workshop. `done` is empty while the bike is on the stand.",
            "How do I find repairs that are still in the workshop?",
            "What columns does the repairs table have?",
            "Who worked on a bike, is the mechanic noted?",
            "Where is the fault described that brought a bike to the workshop?"),
    _schema("parts", ("sku text", "label text", "on_shelf integer", "reorder_at integer",
                      "price_cents integer"),
            "Spare parts in the main store.",
            "Which table lists spare parts?",
            "At what stock level are parts ordered again?",
            "Price of a spare part: where would that be?",
            "How many of a part are on the shelf?"),
    _schema("shifts", ("shift_no integer", "worker text", "starts timestamp", "hours real",
                       "depot text"),
            "Planned working time of street crews.",
            "Where do I find the planned hours of a crew?",
            "From which depot does a shift start?",
            "Which table has working times of the street crews?",
            "How long are shifts, in what column?"),
    _schema("promos", ("code text", "percent_off integer", "valid_until date", "uses integer"),
            "Discount codes from marketing campaigns.",
            "Where are discount codes kept?",
            "How often has a promo code been used, which column?",
            "Until when is a marketing code valid?",
            "Which table should I read for campaign discounts?"),
)  # fmt: skip

_JOINS = (
    _join("rides.rider", "riders.ref", "", "How do I join rides with riders?",
          "What links a trip in rides to the person in riders?",
          "I want rides per home city of riders; on which keys?",
          "Key between riders and rides?"),
    _join("rides.from_station", "stations.code", "Where the trip began.",
          "How are rides connected to stations?",
          "To get the district of a ride I have to match rides and stations on what?",
          "Join condition for stations and rides",
          "Which station code belongs in a ride where it began?"),
    _join("memberships.rider", "riders.ref", "", "How do memberships refer to riders?",
          "Join memberships to riders, please.",
          "Which column matches riders with their memberships?",
          "What is the foreign key from memberships to riders?"),
    _join("repairs.bike", "bikes.frame_no", "Not bikes.id.",
          "How do I match repairs to bikes?", "Which bike column does repairs point at?",
          "Joining the workshop's repairs with bikes: frame number or id?",
          "On what are bikes and repairs joined?"),
    _join("shifts.worker", "staff.badge", "",
          "How does shifts relate to staff?", "Which staff column do shifts use?",
          "Linking shifts and staff: on the badge?", "I need staff names for their shifts; what is "
          "the key?"),
    _join("parts.sku", "deliveries.article", "", "How do deliveries match parts?",
          "What do I join parts and deliveries on?",
          "Which deliveries belong to which parts, by what key?",
          "Key for parts in deliveries"),
)  # fmt: skip

_METRICS = (
    _metric("active riders", "COUNT(DISTINCT rider)", "rides",
            "At least one trip within 30 days; test accounts left out.",
            "What counts as an active rider?", "How many of our riders are active right now?",
            "Give me the number of active riders for June.",
            "Do test accounts count when we report riders as active?"),
    _metric("fleet utilisation", "SUM(ride_minutes) / SUM(available_minutes)", "fleet_daily",
            "Bikes in the workshop are not available.",
            "How is fleet utilisation worked out?", "What was the utilisation of the fleet in May?",
            "How well was our fleet utilised last week?",
            "Is a bike in the workshop part of utilisation?"),
    _metric("churn", "COUNT(*) FILTER (WHERE ended) / COUNT(*)", "membership_months",
            "Pauses of up to 60 days are no end.",
            "How do we define churn?", "What is our monthly churn of memberships?",
            "Show how churn developed this year.", "Is somebody who pauses counted as churned?"),
    _metric("net revenue", "SUM(fare_cents - vat_cents - refund_cents) / 100.0", "billing",
            "Without VAT, after refunds.",
            "How do I compute net revenue?", "Revenue net of VAT and refunds for Q2?",
            "What did we earn net in March?", "Does net revenue include refunds?"),
    _metric("repair turnaround", "MEDIAN(done - came_in)", "repairs",
            "In working hours, weekends left out.",
            "What is the turnaround of repairs?", "How long does a repair take, as we report it?",
            "Median turnaround in the workshop for brake faults?",
            "Do weekends count for the turnaround time of a repair?"),
    _metric("dock pressure", "AVG(full_minutes) / 1440", "station_days",
            "Share of the day in which no dock was free.",
            "What does dock pressure mean?", "Which stations have the highest dock pressure?",
            "How is the pressure on docks calculated?",
            "Share of the day without a free dock, per station?"),
    _metric("no-show rate", "SUM(expired) / COUNT(*)", "reservations",
            "Reservations that ran out without an unlock.",
            "How is the no-show rate defined?", "Rate of no-shows among reservations in April?",
            "How many reservations run out without an unlock, as a rate?",
            "What share of reservations are no shows?"),
    _metric("cost per kilometre", "SUM(total_cents) * 10.0 / SUM(distance_m)", "fleet_daily",
            "Electricity and repairs, no salaries.",
            "What does one kilometre cost us?", "How do we calculate cost per kilometre?",
            "Are salaries in the cost of a kilometre?", "Cost by kilometre for cargo bikes?"),
)  # fmt: skip

_QUERIES = (
    _query("top stations 2024", "Which 10 stations had the most departures in 2024?",
           "SELECT from_station, COUNT(*) FROM rides WHERE started_at >= '2024-01-01' AND "
           "started_at < '2025-01-01' GROUP BY 1 ORDER BY 2 DESC LIMIT 10",
           "Top ten stations by departures, 2024",
           "From which stations did most trips depart in 2024?",
           "Show the ten busiest stations of 2024 by departures.",
           "2024: ranking of stations with most departures", twin="bottom stations 2024"),
    _query("bottom stations 2024", "Which 10 stations had the fewest departures in 2024?",
           "SELECT from_station, COUNT(*) FROM rides WHERE started_at >= '2024-01-01' AND "
           "started_at < '2025-01-01' GROUP BY 1 ORDER BY 2 LIMIT 10",
           "Stations with fewest departures in 2024",
           "Which ten stations had the fewest trips departing in 2024?",
           "In 2024, where were the fewest departures? Ten stations.",
           "The 10 stations of 2024 that had fewest departures", twin="top stations 2024"),
    _query("new riders by month", "How many riders signed up in each month of 2025?",
           "SELECT strftime('%m', joined), COUNT(*) FROM riders WHERE joined >= '2025-01-01' "
           "GROUP BY 1", "Sign-ups of riders per month in 2025",
           "How many new riders joined every month of 2025?",
           "Monthly number of riders signing up, 2025",
           "For 2025, count riders who signed up by month."),
    _query("late repairs", "Which bikes have been in the workshop for more than 14 days?",
           "SELECT bike FROM repairs WHERE done IS NULL AND came_in < date('now', '-14 day')",
           "List bikes that are in the workshop longer than 14 days.",
           "Bikes stuck in the workshop for over 14 days",
           "More than 14 days in the workshop: which bikes?",
           "Which bikes wait in the workshop since more than two weeks?"),
    _query("low parts", "Which parts are below their reorder level?",
           "SELECT sku, label FROM parts WHERE on_shelf < reorder_at",
           "Parts under the reorder level?", "Which parts do we have to reorder?",
           "List spare parts whose stock is below the reorder level.",
           "What parts have fallen below the level for reordering?"),
    _query("weekend rides by district", "How many rides began in each district on weekends?",
           "SELECT district, COUNT(*) FROM rides JOIN stations ON from_station = code WHERE "
           "strftime('%w', started_at) IN ('0', '6') GROUP BY 1",
           "Weekend rides per district", "Rides on weekends, by district",
           "How many weekend trips started in every district?",
           "Count the rides that began on a weekend for each district.",
           twin="weekday rides by district"),
    _query("weekday rides by district", "How many rides began in each district on weekdays?",
           "SELECT district, COUNT(*) FROM rides JOIN stations ON from_station = code WHERE "
           "strftime('%w', started_at) NOT IN ('0', '6') GROUP BY 1",
           "Weekday rides per district", "Rides on weekdays, by district",
           "How many weekday trips started in every district?",
           "Count the rides that began on a weekday for each district.",
           twin="weekend rides by district"),
    _query("riders with several plans", "Which riders have had more than one membership plan?",
           "SELECT rider FROM memberships GROUP BY rider HAVING COUNT(DISTINCT plan) > 1",
           "Riders who changed their membership plan",
           "Who has had several membership plans?",
           "List riders with more than one plan so far.",
           "How many riders switched to another membership plan?"),
    _query("overtime", "Which workers were planned for more than 40 hours in a week?",
           "SELECT worker FROM shifts GROUP BY worker, strftime('%W', starts) HAVING SUM(hours) > "
           "40", "Workers with more than 40 hours planned a week",
           "Who was planned for over 40 hours in one week?",
           "List workers whose weekly plan is above 40 hours.",
           "Weeks with more than forty planned hours, by worker"),
    _query("night share", "What share of rides starts between 22 and 5 o'clock?",
           "SELECT AVG(strftime('%H', started_at) IN ('22', '23', '00', '01', '02', '03', '04')) "
           "FROM rides", "Share of rides that start at night between 22 and 5",
           "How many rides, as a share, start between 22 and 5 o'clock?",
           "Which part of our rides begins between 10 pm and 5 am?",
           "Rides starting from 22 to 5 o'clock, in percent"),
)  # fmt: skip

_DOCUMENTS = (
    _document("Refunds", "A trip is refunded in full when the bike could not be unlocked within "
              "two minutes. Everything else is decided by the service desk and booked on the last "
              "working day of the month.",
              "When do riders get a full refund?", "Who decides about refunds?",
              "On which day are refunds booked?",
              "A bike could not be unlocked, is the trip refunded?"),
    _document("Winter prices", "From December to February the first 20 minutes are free on "
              "weekdays. Prices in the tables are those of the season.",
              "Which prices hold in winter?", "Are the first minutes free in December?",
              "What is different about prices from December to February?",
              "Do winter prices apply on weekends too?"),
    _document("Names of stations", "A station keeps its code when it is renamed; reports show the "
              "name of today for all years.",
              "What happens when a station is renamed?", "Do reports use old names of stations?",
              "Does the code of a station change with its name?",
              "Which name does a report show for a station that was renamed?"),
    _document("Delivery of data", "Trips arrive within five minutes, payments once a night at two, "
              "weather on the next morning.",
              "How late does payment data arrive?", "How fresh is the data on trips?",
              "When does weather data come in?",
              "At what time of night are payments delivered?"),
    _document("Retention", "Positions are deleted after 30 days, trips lose the name of the rider "
              "after two years, invoices stay for ten.",
              "After how many days are positions deleted?", "How long do we keep invoices?",
              "When do trips lose the name of the rider?",
              "What is our retention for positions of bikes?"),
    _document("Cargo bikes", "Cargo bikes have frame numbers that begin with C. They have their "
              "own tariff since 2024 and do not fit into every dock.",
              "How do I recognise cargo bikes?", "What frame numbers do cargo bikes have?",
              "Since when is there a tariff for cargo bikes?",
              "Do cargo bikes fit all docks?"),
)  # fmt: skip

CORPUS: tuple[Item, ...] = _SCHEMAS + _JOINS + _METRICS + _QUERIES + _DOCUMENTS
