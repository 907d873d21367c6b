"""The four verdicts, from best to worst; a row is the worst of its parts."""

PASS, INCONCLUSIVE, NOT_MEASURED, FAIL = WORSE = ("PASS", "INCONCLUSIVE", "NOT MEASURED", "FAIL")
