"""A passphrase, and somebody who is asked for one. For tests only."""

from __future__ import annotations

PASSPHRASE = b"correct horse battery"


class Asked:
    """Somebody who knows a passphrase and is asked for it."""

    def __init__(self, *answers):
        self.answers, self.questions = list(answers), []

    def __call__(self, what, wrong):
        self.questions.append((what, wrong))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
