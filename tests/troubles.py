"""What goes wrong with the service and the store in the property test, by names."""

from __future__ import annotations

from storefaults import StoreFault

from dokrun.emulator import Fault

API_FAULTS = {
    "post is refused": Fault("status", "POST", "/tasks/", status=403),
    "post 500 before": Fault("status", "POST", "/tasks/", status=500),
    "post 429": Fault("status", "POST", "/tasks/", status=429),
    "post 503 after": Fault("status", "POST", "/tasks/", phase="after", status=503),
    "post reset before": Fault("reset", "POST", "/tasks/"),
    "post reset after": Fault("reset", "POST", "/tasks/", phase="after"),
    "post garbage after": Fault("garbage", "POST", "/tasks/", phase="after"),
    "post cut": Fault("cut", "POST", "/tasks/", phase="body", at_byte=20),
    "post twice": Fault("duplicate", "POST", "/tasks/", phase="after"),
    "post late": Fault("reset", "POST", "/tasks/", phase="during", late_s=10.0),
    "post very late": Fault("status", "POST", "/tasks/", occurrence=None, phase="during", late_s=300.0, status=504),
    "post always fails": Fault("status", "POST", "/tasks/", occurrence=None, status=503),
    "list 500": Fault("status", "GET", "/tasks/", status=500),
    "list reset": Fault("reset", "GET", "/tasks/"),
    "list garbage": Fault("garbage", "GET", "/tasks/"),
    "list always fails": Fault("status", "GET", "/tasks/", occurrence=None, status=502),
    "list 401 for ever": Fault("status", "GET", "/tasks/", occurrence=None, status=401),
    "cancel 500 before": Fault("status", "POST", "/tasks/*/cancel/", status=500),
    "cancel reset after": Fault("reset", "POST", "/tasks/*/cancel/", phase="after"),
    "cancel late": Fault("status", "POST", "/tasks/*/cancel/", phase="during", late_s=10.0, status=504),
    "task 500": Fault("status", "GET", "/tasks/*-*/", status=500),
    "artifacts 503": Fault("status", "GET", "/artifacts/*", status=503),
    "artifacts garbage": Fault("garbage", "GET", "/artifacts/*"),
    "artifacts always fail": Fault("status", "GET", "/artifacts/*", occurrence=None, status=500),
    "download cut": Fault("cut", "GET", "/downloads/artifacts/*", phase="body", at_byte=100),
    "download reset": Fault("reset", "GET", "/downloads/artifacts/*"),
    "log reset": Fault("reset", "GET", "/downloads/output/*"),
    "log never comes": Fault("status", "GET", "/downloads/output/*", occurrence=None, status=500),
}
CANCELLING = [name for name in API_FAULTS if name.startswith("cancel")]
STORE_FAULTS = {
    "claim written, answer lost": StoreFault("reset", "PUT", "*/claims/*", phase="after"),
    "claim 503": StoreFault("status", "PUT", "*/claims/*", status=503),
    "claim delivered twice": StoreFault("twice", "PUT", "*/claims/*"),
    "claim unreadable": StoreFault("status", "GET", "*/claims/*", status=403),
    "claim refused": StoreFault("status", "PUT", "*/claims/*", status=403),
    "payload expired": StoreFault("status", "GET", "*/payload", status=403, code="ExpiredToken"),
    "payload tampered": StoreFault("tamper", "GET", "*/payload", at_byte=-1),
    "payload cannot be put": StoreFault("status", "PUT", "*/payload", status=403),
}
# Of what only jobs of several calls have in the bucket.
SHARED_FAULTS = {
    "begun cannot be put": StoreFault("status", "PUT", "*/begun", status=403),
    "begun unreadable": StoreFault("status", "GET", "*/begun", status=403),
    "results cannot be put": StoreFault("status", "PUT", "*/results/*", status=403),
    "results unreadable": StoreFault("status", "GET", "*/results/*", status=403),
    # A digit of what the call returned, which unpickles as well.
    "results tampered": StoreFault("tamper", "GET", "*/results/*", occurrence=None, at_byte=-50),
}

# What keeps one client from results, or from hearing of them, that another may have.
LOSING = frozenset({"log never comes", "results unreadable", "results tampered"})
_POSTING = [name for name in API_FAULTS if name.startswith("post")]
# What goes wrong beside kills and cancels in one set of sequences: few things, so that each of them does.
TROUBLES = {
    "posting": _POSTING[:6],
    "posting oddly": _POSTING[6:],
    "looking": [name for name in API_FAULTS if name.startswith(("list", "task"))],
    "collecting": [name for name in API_FAULTS if name.startswith(("artifacts", "download", "log reset"))],
    "storing": list(STORE_FAULTS),
    "sharing": [*SHARED_FAULTS, "log never comes"],
}
