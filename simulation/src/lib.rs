//! Tests of the whole control plane in one process under virtual time: see `tests/`. There is nothing else here.
