/* SPDX-License-Identifier: MPL-2.0 */
/* A program with a hub inside and a team that is the program itself: it answers each question with the number of its
 * words.  Ask it over HTTP as any team; it ends at the end of its standard input.
 *
 *   own_team DATA-FOLDER */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/muster.h"

/* One turn at work, on a thread of its own. */
struct work {
    struct muster_turn *turn;
    char *prompt;
};

static void *
answer(void *arg)
{
    struct work *work = arg;
    char text[64];
    char *rest = NULL;
    int words = 0;

    for (char *word = strtok_r(work->prompt, " ", &rest); word; word = strtok_r(NULL, " ", &rest))
        words++;
    snprintf(text, sizeof text, "%d words", words);
    muster_turn_chunk(work->turn, text, strlen(text));
    muster_turn_done(work->turn, NULL); /* the chunks are the answer; the turn is gone now */
    free(work->prompt);
    free(work);
    return NULL;
}

/* On the team's thread: it must not block. */
static void
begin(struct muster_turn *turn, const char *prompt, const char *conversation, void *arg)
{
    struct work *work = malloc(sizeof *work);
    pthread_t thread;

    (void)conversation;
    (void)arg;
    *work = (struct work){turn, strdup(prompt)};
    if (pthread_create(&thread, NULL, answer, work) == 0) {
        pthread_detach(thread);
        return;
    }
    muster_turn_fail(turn, "PROCESS_ERROR", "No thread could be started.", true);
    free(work->prompt);
    free(work);
}

int
main(int argc, char **argv)
{
    struct muster_team team = {.name = "counter", .concurrency = 4, .begin = begin};
    struct muster_hub_settings settings = {.listen = "127.0.0.1:0", .log_fd = 2, .teams = &team, .team_count = 1};
    char problem[512];
    struct muster_hub *hub;

    settings.data = argc > 1 ? argv[1] : "own-team-data";
    hub = muster_hub_start(&settings, problem, sizeof problem, NULL);
    if (hub == NULL) {
        fprintf(stderr, "%s\n", problem);
        return 1;
    }
    printf("%s\n", muster_hub_url(hub)); /* the key is in DATA-FOLDER/admin.key */
    fflush(stdout);
    while (getchar() != EOF)
        ;
    muster_hub_stop(&hub);
    return 0;
}
