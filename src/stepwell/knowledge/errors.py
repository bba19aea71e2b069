"""What can go wrong with a knowledge base."""

from __future__ import annotations

from stepwell.base.errors import StepwellError


class KnowledgeError(StepwellError):
    """The knowledge base cannot do what was asked."""

    code = "knowledge_error"


class InvalidEntry(KnowledgeError):
    """A field of an entry is missing, malformed or not of its kind."""

    code = "invalid_entry"


class UnsafeEntry(KnowledgeError):
    """It holds a secret, or SQL that is not one SELECT, or it is a note that would be found fault
    with as an entry: nothing was stored."""

    code = "unsafe_entry"


class UnknownEntry(KnowledgeError):
    """There is no entry of that id in this tenant."""

    code = "entry_not_found"


class UnknownRelease(KnowledgeError):
    """There is no release of that name in this tenant."""

    code = "release_not_found"


class GateClosed(KnowledgeError):
    """The gate refuses the step: capture is off, evidence is missing, or a rule is not met."""

    code = "gate_closed"


class ReleaseBlocked(KnowledgeError):
    """A case that passed before fails with the new release, and no signed waiver covers it."""

    code = "release_blocked"


class EntryErased(KnowledgeError):
    """The entry was erased; it can be neither read nor captured again."""

    code = "entry_erased"


class KnowledgeFormat(KnowledgeError):
    """What is on disk was written by a version whose format this one does not read."""

    code = "knowledge_format"


class KnowledgeDamaged(KnowledgeError):
    """What is on disk is not what was written."""

    code = "knowledge_damaged"
