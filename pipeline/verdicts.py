"""The four verdicts, from best to worst, and why a part of a row is not ``PASS``; a row is the worst of its parts."""

PASS, INCONCLUSIVE, NOT_MEASURED, FAIL = WORSE = ("PASS", "INCONCLUSIVE", "NOT MEASURED", "FAIL")

NOT_TRAINED = "not trained"  # the trained network itself is worse than its floor
STALE = "stale"  # measured on another bundle than the one at hand
ABSENT = "absent"  # not measured on this host
NO_ANSWER = "no answer"  # opened, and then failed on the test examples
NOT_FINITE = "not finite"
ANOTHER_NETWORK = "another network"  # an fp32 graph whose error is more than rounding
ACCURACY = "accuracy"
NO_BOUND = "no bound"  # of the drop
LATENCY = "latency"

# A cause stands before those that it may explain.
CAUSES = (NOT_TRAINED, STALE, ABSENT, NO_ANSWER, NOT_FINITE, ANOTHER_NETWORK, ACCURACY, NO_BOUND, LATENCY)
