"""The type checker that every function of the package is wrapped in while testing."""

from beartype import BeartypeConf, beartype

# As the type system has it (PEP 484), an int is accepted where a float is expected.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
