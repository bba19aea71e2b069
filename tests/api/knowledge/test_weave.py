"""Where blocks stand: append-only, repeated to the byte, and a clean way on after an edit."""

from __future__ import annotations

import itertools

from hypothesis import given as examples
from hypothesis import settings
from hypothesis import strategies as st

from stepwell.server.knowledge.weave import SEPARATOR, Block, Course, Given, Offer, weave

PACK = Block("preamble\n[metric-1]\n| m\n", ("metric-1",))
NO_LIMIT = 1 << 20


def block(name):
    return Block(f"[{name}]\n| text of {name}\n", (name,))


def offer(*names, release="r0001", pack=PACK):
    return Offer(release=release, pack=pack, chosen=tuple(block(name) for name in names))


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def said(woven):
    return [message["content"] for message in woven.messages]


def talk(turns, *, system=None, given=None):
    """Weave a conversation turn by turn; what each request was made of."""
    history = [] if system is None else [{"role": "system", "content": system}]
    made = []
    for question, names in turns:
        history.append(user(question))
        woven = weave(history, offer(*names), given=given, limit=NO_LIMIT)
        given = woven.given
        made.append(woven)
        history.append(assistant(f"answer to {question}"))
    return made


def test_the_system_message_is_left_alone_and_the_pack_stands_before_the_first_words():
    woven = talk([("q", ["gotcha-1"])], system="be brief")[0]
    assert said(woven) == ["be brief", PACK.text + block("gotcha-1").text + SEPARATOR + "q"]
    assert woven.course is Course.BEGUN


def test_a_later_turn_gets_only_what_is_new():
    first, second = talk([("q", ["gotcha-1"]), ("p", ["gotcha-1", "template-2"])])
    assert said(second)[0] == said(first)[0]
    assert said(second)[-1] == block("template-2").text + SEPARATOR + "p"
    assert second.earlier == ("metric-1", "gotcha-1")


def test_asked_again_a_question_gets_what_was_confirmed_since_behind_what_it_had():
    first = weave([user("q")], offer("gotcha-1"), given=None, limit=NO_LIMIT)
    again = weave([user("q")], offer("gotcha-2"), given=first.given, limit=NO_LIMIT)
    assert said(again)[0] == f"{first.blocks[0].text}{block('gotcha-2').text}{SEPARATOR}q"


def test_an_edited_history_goes_on_from_the_edit():
    first, second = talk([("q", ["gotcha-1"]), ("p", ["template-2"])])
    history = [user("q"), assistant("answer to q"), user("edited"), assistant("a"), user("r")]
    third = weave(history, offer("template-2"), given=second.given, limit=NO_LIMIT)
    assert third.course is Course.EDITED
    assert said(third)[0] == said(first)[0] and said(third)[2] == "edited"
    assert said(third)[-1] == block("template-2").text + SEPARATOR + "r"


def test_without_memory_it_starts_over_with_the_pack():
    history = [user("q"), assistant("a"), user("p")]
    woven = weave(history, offer("template-2"), given=None, limit=NO_LIMIT)
    assert woven.course is Course.LOST
    assert said(woven) == [f"{PACK.text}{SEPARATOR}q", "a", block("template-2").text + "\np"]


def test_a_new_release_and_what_is_withdrawn_start_over():
    first = weave([user("q")], offer("gotcha-1"), given=None, limit=NO_LIMIT)
    history = [user("q"), assistant("a"), user("p")]
    new = weave(history, offer(release="r0002"), given=first.given, limit=NO_LIMIT)
    assert new.course is Course.RELEASED and "gotcha-1" not in "".join(said(new))
    gone = weave(history, offer(), given=first.given, gone={"gotcha-1"}, limit=NO_LIMIT)
    assert gone.course is Course.WITHDRAWN and "gotcha-1" not in "".join(said(gone))
    assert weave(history, offer(), given=first.given, limit=3).course is Course.OUTGROWN


def test_nothing_to_give_changes_nothing_and_the_first_entry_brings_the_preamble():
    bare = Offer(release="", pack=Block(), chosen=())
    first = weave([user("q")], bare, given=None, limit=NO_LIMIT)
    assert said(first) == ["q"]
    history = [user("q"), assistant("a"), user("p")]
    later = offer("gotcha-1", release="", pack=Block("preamble\n"))
    second = weave(history, later, given=first.given, limit=NO_LIMIT)
    assert said(second) == ["q", "a", "preamble\n" + block("gotcha-1").text + "\np"]


NAMES = st.lists(st.integers(1, 6).map(lambda n: f"gotcha-{n}"), max_size=4, unique=True)
TURNS = st.lists(st.tuples(st.sampled_from("abcd"), NAMES), min_size=1, max_size=6)


@settings(max_examples=80, deadline=None)
@examples(turns=TURNS, system=st.none() | st.just("s"))
def test_each_request_extends_the_one_before_to_the_byte(turns, system):
    made = talk(turns, system=system)
    for before, after in itertools.pairwise(made):
        assert said(after)[: len(said(before))] == said(before)
        assert after.course is Course.EXTENDED
    held = [name for one in made[-1].blocks for name in one.ids]
    assert len(held) == len(set(held))
    assert set(held) == {"metric-1"} | {name for _, names in turns for name in names}


@settings(max_examples=80, deadline=None)
@examples(turns=TURNS, place=st.integers(0, 5), names=NAMES)
def test_after_an_edit_what_precedes_it_stays_and_nothing_is_given_twice(turns, place, names):
    made = talk(turns)
    place %= len(turns)
    history = [m for q, _ in turns for m in (user(q), assistant(f"answer to {q}"))]
    history[2 * place] = user("edited")
    history.append(user("next"))
    woven = weave(history, offer(*names), given=made[-1].given, limit=NO_LIMIT)
    assert woven.course is Course.EDITED
    assert said(woven)[: 2 * place] == said(made[-1])[: 2 * place]
    held = [name for one in woven.blocks for name in one.ids]
    assert len(held) == len(set(held)) and set(names) <= set(held)
    for message, sent in zip(history, woven.messages, strict=True):
        assert sent["content"].endswith(message["content"])


def test_memory_holds_no_more_than_it_gave():
    first = weave([user("q")], offer("gotcha-1"), given=None, limit=NO_LIMIT)
    assert first.given.ids == {"metric-1", "gotcha-1"}
    assert isinstance(first.given, Given)
