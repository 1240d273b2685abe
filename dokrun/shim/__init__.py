"""What runs in the container. Stdlib and cloudpickle only; imports nothing of dokrun.

`payload/shim.py` packs this folder, with the client's own cloudpickle, into `shim.pyz`. Of these files the client
imports `protocol`, `envelope` and `seal`, and nothing else.
"""
