"""The proof that no order is lost and nothing happens twice: see docs/proof.md."""
