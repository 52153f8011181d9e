"""The kinds of things that run elsewhere: how each is found, read, waited for and cancelled."""
