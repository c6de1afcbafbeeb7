"""How good one model's queries are against another's gallery, with intervals, and the gate.

Arrays in, numbers out: `upgrade.evaluate_upgrade` makes what a result holds, `gate.judge` reads
it. No module here holds all scores at once.
"""
