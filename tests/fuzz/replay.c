// SPDX-License-Identifier: Apache-2.0
//
// Runs a target over the files of a corpus, one test for each, in the order of their names: so what
// the fuzzers once found is tried in every build, without a fuzzer. A target that fails aborts; the
// name of the file stands before that in the output, and TAP's missing plan makes it a failure.
//
//     fuzz_NAME FOLDER [FILE...]      (paths; a FILE alone is for repeating one failure)

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/fuzz/fuzz.h"

static int tests;

// The file's bytes in a block of just their size.
static uint8_t *read_file(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    struct stat status;
    uint8_t *bytes;

    if (!file || fstat(fileno(file), &status) < 0) {
        printf("Bail out! %s: %s\n", path, strerror(errno));
        exit(1);
    }
    *size = (size_t)status.st_size;
    bytes = malloc(*size);
    if ((!bytes && *size > 0) || fread(bytes, 1, *size, file) != *size) {
        printf("Bail out! %s: cannot be read\n", path);
        exit(1);
    }
    fclose(file);
    return bytes;
}

static void run_file(const char *path, const char *name)
{
    size_t size;
    uint8_t *bytes = read_file(path, &size);

    printf("# %s\n", path);
    fflush(stdout);
    LLVMFuzzerTestOneInput(bytes, size);
    printf("ok %d - %s\n", ++tests, name);
    fflush(stdout);
    free(bytes);
}

static int is_visible(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

static void run_folder(const char *folder)
{
    struct dirent **entries;
    int count = scandir(folder, &entries, is_visible, alphasort);
    char path[4096];

    if (count < 0) {
        printf("Bail out! %s: %s\n", folder, strerror(errno));
        exit(1);
    }
    for (int i = 0; i < count; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, entries[i]->d_name);
        run_file(path, entries[i]->d_name);
        free(entries[i]);
    }
    free(entries);
}

int main(int argc, char **argv)
{
    struct stat status;

    for (int i = 1; i < argc; i++) {
        if (stat(argv[i], &status) == 0 && S_ISDIR(status.st_mode))
            run_folder(argv[i]);
        else
            run_file(argv[i], argv[i]);
    }
    if (tests == 0)
        printf("not ok %d - a corpus without files\n", ++tests);
    printf("1..%d\n", tests);
    return 0;
}
