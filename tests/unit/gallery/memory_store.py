"""A gallery store in memory, of a few lines: the stand-in that shows what the seam asks for."""

import contextlib
import copy
from types import SimpleNamespace

import numpy as np

from mixbct.gallery.store import Item


class MemoryStore:
    def __init__(self, model):
        self.now = SimpleNamespace(
            rows={}, contracts={}, edges={}, model=model, next_id=1, removed=[0]
        )

    @contextlib.contextmanager
    def reading(self):
        yield

    @contextlib.contextmanager
    def writing(self):
        before = copy.deepcopy(self.now)
        try:
            yield
        except BaseException:
            self.now = before
            raise

    def state(self):
        return str(len(self.now.removed))

    def removed_since(self, state):
        known = state.isdigit() and int(state) <= len(self.now.removed)
        return sum(self.now.removed[int(state) :]) if known else None

    def query_model(self):
        return self.now.model

    def set_query_model(self, model):
        self.now.model = model

    def add_edge(self, edge):
        self.now.edges[edge.from_contract.id, edge.to_contract.id] = edge

    def edges(self):
        return list(self.now.edges.values())

    def contracts(self):
        return [c for id, c in self.now.contracts.items() if id in self.counts()]

    def counts(self):
        held = [item.contract_id for item, _ in self.now.rows.values()]
        return {id: held.count(id) for id in held}

    def put(self, keys, labels, contract, vectors):
        gone = [id for id, (item, _) in self.now.rows.items() if item.key in keys]
        for id in gone:
            del self.now.rows[id]
        self.now.contracts[contract.id] = contract
        for key, label, vector in zip(keys, labels, vectors, strict=True):
            self.now.rows[self.now.next_id] = (Item(key, label, contract.id), vector.copy())
            self.now.next_id += 1
        self.now.removed.append(len(gone))
        return len(gone)

    def held(self, keys):
        held = {item.key for item, _ in self.now.rows.values()}
        return [key for key in keys if key in held]

    def items(self, ids):
        return {id: self.now.rows[id][0] for id in ids.tolist()}

    def ids(self, contract_id):
        ids = [id for id, (item, _) in self.now.rows.items() if item.contract_id == contract_id]
        return np.array(ids, dtype=np.int64)

    def blocks(self, contract, after):
        ids = self.ids(contract.id)
        for id in ids[ids > after]:
            yield np.array([id]), self.now.rows[int(id)][1][None]

    def size(self):
        return 0

    def close(self):
        pass
