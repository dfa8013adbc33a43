"""blockgate's tests; a package so that one may import another's helpers (`tests.lab...`)."""
