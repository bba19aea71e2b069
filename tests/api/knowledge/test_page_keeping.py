"""Cases, schema and erasing on the review page; after each step the server is asked."""

from __future__ import annotations

from tests.api.knowledge.browser import HOSTILE, nothing_ran, released
from tests.api.knowledge.conftest import ASK, GOTCHA

DDL = "CREATE TABLE orders (id INT, status TEXT)"
DEPENDS = GOTCHA | {"depends_on": ["orders.status"]}


def focused(page):
    return page.script("return document.activeElement.id")


def choose(page, css, value):
    """As with the arrow keys."""
    page.driver.execute_script(
        "const [at, value] = arguments; at.value = value;"
        "at.dispatchEvent(new Event('change', {bubbles: true}));",
        page.find(css),
        value,
    )


def only_entry(shop):
    (entry,) = shop.ann.get("entries")["data"]
    return entry["id"]


def test_a_case_is_added_shown_as_text_and_taken_away(shop, page):
    page.open("k-eve", "cases")
    assert "There is no case yet" in page.text("#cases")
    page.press("#cases .list", "Add a case")
    page.press("#add-case", "Add the case")
    page.refused("#add-case", "Question is missing")
    page.fill("#case-question", f"{ASK} {HOSTILE}")
    page.fill("#case-expect", f"orders.state\n\n{HOSTILE}")
    page.fill("#case-id", "stale")
    choose(page, "#case-reads", "answer")
    choose(page, "#case-kind", "near_miss")
    page.press("#add-case", "Add the case")
    page.said("The case stale is there.")
    page.wait(lambda: focused(page) == "said")
    (case,) = shop.ann.get("cases")["data"]
    assert case == {
        "id": "stale", "question": f"{ASK} {HOSTILE}", "expect": ["orders.state", HOSTILE],
        "forbid": [], "area": "", "kind": "near_miss", "reads": "answer", "by": "eve",
    }  # fmt: skip
    page.wait(lambda: page.text('[data-case="stale"]').count(HOSTILE) == 2)
    nothing_ran(page)
    page.press('[data-case="stale"]', "Take away")
    page.said("The case stale is taken away.")
    page.wait(lambda: "There is no case yet" in page.text("#cases"))
    assert shop.ann.get("cases")["data"] == []


def test_a_schema_change_shows_what_becomes_unusable_before_it_is_told(shop, page):
    shop.eve.post("schema", {"ddl": DDL})
    released(shop, DEPENDS)
    name = only_entry(shop)
    page.open("k-eve", "schema")
    assert "3 tables, views and columns known" in page.text("#schema")
    page.fill("#ddl", "CREATE TABLE (")
    page.press("#tell-schema", "Show what would change")
    page.refused("#tell-schema", "cannot be read")
    page.fill("#ddl", 'CREATE TABLE orders (id INT, "<img src=x onerror=owned=1>" TEXT)')
    page.press("#tell-schema", "Show what would change")
    page.wait(lambda: name in page.text("#schema-change"))
    assert "Gone (1)\norders.status" in page.text("#schema-change")
    assert "orders.<img src=x" in page.text("#schema-change")
    nothing_ran(page)
    assert shop.ann.get("schema")["unusable"] == []
    page.press("#schema-change", "This is the schema")
    page.said(f"1 entry became unusable: {name}")
    page.wait(lambda: focused(page) == "said")
    assert shop.ann.get("schema")["unusable"] == [name]
    assert "Entries that do not fit it (1)" in page.text("#schema")
    page.fill("#ddl", DDL)
    page.press("#tell-schema", "Show what would change")
    page.wait(lambda: "Changed" in page.text("#schema-change"))
    page.find("#ddl").send_keys(" ")
    assert page.text("#schema-change") == "", "what is shown is what would be told"


def test_who_confirms_says_that_an_entry_still_holds(shop, page):
    shop.eve.post("schema", {"ddl": DDL})
    released(shop, DEPENDS)
    name = only_entry(shop)
    shop.eve.post("schema", {"ddl": DDL.replace("TEXT", "INT")})
    page.open("k-bob", "schema")
    page.press("#schema .list", name)
    page.wait(lambda: "It still holds" in page.text(f'[data-unusable="{name}"]'))
    page.press(f'[data-unusable="{name}"]', "It still holds")
    page.said(name)
    page.wait(lambda: "All entries in use fit it." in page.text("#schema"))
    assert shop.ann.get("schema")["unusable"] == []


def test_erasing_wants_the_id_typed_and_shows_what_was_done(shop, page):
    released(shop, {"kind": "gotcha", "payload": {"about": "orders.note", "rule": HOSTILE}})
    name = only_entry(shop)
    child = shop.ann.propose(GOTCHA | {"parents": [name]})
    note = {"session": "s", "text": f"it said {HOSTILE}"}
    shop.ann.post("notes", note, status=201)
    page.open("k-eve", "releases")
    page.press('[data-release="r0001"]', "What it changed")
    page.wait(lambda: name in page.text("#releases"))
    page.press('[data-release="r0001"]', name)
    page.wait(lambda: "Erase …" in page.text("#releases"))
    page.find(f'#releases a[href="#erase/{name}"]').send_keys("\ue007")
    page.wait(lambda: page.shown("#erase") and HOSTILE in page.text("#to-erase"))
    assert "It came with r0001." in page.text("#to-erase")
    nothing_ran(page)
    page.fill("#erase-typed", name[:-1])
    page.press("#to-erase", "Erase")
    page.refused("#to-erase", f"Type {name}")
    assert shop.ann.get(f"entries/{name}")["entry"]["id"] == name
    choose(page, "#erase-history", "erase")
    page.fill("#erase-typed", name)
    page.press("#to-erase", "Erase")
    page.said(f"Erased: {name}.")
    page.wait(lambda: focused(page) == "said")
    report = page.text("#erased")
    assert "every release is written anew" in report and "1 note of a session went" in report
    assert "1 block or chunk of computed context was dropped" in report and child in report
    assert HOSTILE not in page.text("main")
    assert shop.ann.refused("GET", f"entries/{name}") == (410, "entry_erased")
    assert shop.running.engine.erasures
    page.press(".tools", "Reload")
    page.wait(lambda: "was erased" in page.text("#erase .refusal"))


def test_who_may_not_is_not_offered_it(shop, page):
    shop.eve.post("cases", {"id": "one", "question": ASK, "expect": ["x"]}, status=201)
    page.open("k-ann", "cases")
    assert not page.shown('nav a[href="#erase"]')
    page.press('[data-case="one"]', "Take away")
    assert "roles=release" in page.refused('[data-case="one"]', "'release'")
    page.open("k-ann", "schema")
    page.fill("#ddl", DDL)
    page.press("#tell-schema", "Show what would change")
    page.refused("#tell-schema", "'release'")
    name = shop.app.propose()
    page.open("k-ann", f"erase/{name}")
    page.wait(lambda: name in page.text("#to-erase"))
    page.fill("#erase-typed", name)
    page.press("#to-erase", "Erase")
    page.refused("#to-erase", "'erase'")
    assert shop.ann.get(f"entries/{name}")["entry"]["status"] == "candidate"
    assert shop.ann.get("schema")["hashes"] == {} and len(shop.ann.get("cases")["data"]) == 1


def test_every_field_has_a_label_and_every_view_fits_the_screen(shop, page):
    shop.eve.post("cases", {"question": "q" * 300, "expect": ["x" * 300]}, status=201)
    shop.eve.post("schema", {"ddl": DDL})
    for view in ("cases", "schema", "erase"):
        page.open("k-eve", view)
        unlabelled = "return [...document.querySelectorAll('input, textarea, select')]" + (
            ".filter((one) => one.labels.length === 0).length"
        )
        assert page.script(unlabelled) == 0
        for width in (360, 1280):
            size = {"width": width, "height": 700, "deviceScaleFactor": 1, "mobile": width < 500}
            page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            assert page.script("return document.documentElement.scrollWidth") <= width
    page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
