"""Kill engines at random moments of programming, and see that nothing opens, nothing is lost and nothing is left.

world.py     manifests that change all the time, and the flows that every version of them denies or allows
sentry.py    sends such packets throughout, and sees which arrive
kernel.py    what a node's kernel has, in a form that can be compared
killer.py    waits for a moment and kills
run.py       the whole: kill, restart, compare with a fresh run, clean up
switches.py  the same with engines that exchange their dataplane, and are killed in the middle of it
"""
