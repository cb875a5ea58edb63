"""`stowage plan`: what of many lines is shown."""

from backupcore.cli import plan


def test_hundreds_that_wait_do_not_push_the_chart_away():
    lines = [f"web{number}:etc waits for its first full" for number in range(600)]
    shown = plan.folded(lines, "that wait for their first full")
    assert shown[:10] == lines[:10]
    assert shown[10:] == ["and 590 more that wait for their first full: stowage --json plan names them"]
    for few in (0, 1, 10, 11):
        assert plan.folded(lines[:few], "x") == lines[:few]
