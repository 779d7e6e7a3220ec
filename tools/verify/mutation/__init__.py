"""General mutants of src/orders: what the fast tests are worth shows in what they let pass; see docs/proof.md."""
