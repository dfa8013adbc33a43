"""What blockgate's words mean: pools, volumes, exports, sizes, names, addresses and errors.

Everything here is a frozen value or a pure function; nothing does any I/O. Input from outside is
checked here, once, and every error says what to type instead.
"""
