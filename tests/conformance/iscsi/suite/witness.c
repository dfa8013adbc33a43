/*
 * Preloaded into iscsi-test-cu: writes each assertion of CUnit to the file that ASSERTIONS names,
 * one a line: "+" or "-", the source file, the line and the text of the condition.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

typedef int assertion(int, unsigned, const char *, const char *, const char *, int);

static void note(int value, unsigned line, const char *condition, const char *file) {
    static FILE *out;
    if (out == NULL) {
        const char *path = getenv("ASSERTIONS");
        out = path != NULL ? fopen(path, "a") : NULL;
        if (out == NULL)
            return;
        setvbuf(out, NULL, _IOLBF, 0); /* a test that dies has said what it reached */
    }
    fprintf(out, "%c %s:%u %s\n", value ? '+' : '-', file, line, condition);
}

int CU_assertImplementation(int value, unsigned line, const char *condition, const char *file,
                            const char *function, int fatal) {
    assertion *real = (assertion *)dlsym(RTLD_NEXT, "CU_assertImplementation");
    note(value, line, condition, file);
    return real(value, line, condition, file, function, fatal);
}
