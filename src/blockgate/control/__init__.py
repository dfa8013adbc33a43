"""Control: use cases, the pure plan from desired and observed, and the reconciler."""
