"""Multiruns: which members there are (members), who runs them (launch, pool), what became of them (ledger)."""
