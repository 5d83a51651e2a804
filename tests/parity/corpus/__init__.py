"""Real porting bugs, each rebuilt small from its public report: all are in `BUGS`."""

from corpus import attention, convolutions, losses, norms, optimizers, recurrent

BUGS = {
    bug.source.split("/")[1]: bug
    for part in (norms, convolutions, attention, recurrent, losses, optimizers)
    for bug in part.BUGS
}
