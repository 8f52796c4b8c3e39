"""Real parts for the tests: engines and object stores of their own, started and removed by whoever needs them."""
