"""A small model that answers questions about drawn worlds with SQL, from what it is given."""
