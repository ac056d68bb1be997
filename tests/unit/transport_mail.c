/* SPDX-License-Identifier: MPL-2.0 */
/* Mailboxes, the feed and the board. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "transport/muster_mail.h"

static struct muster_buf
text(const char *content)
{
    struct muster_buf buf = {0};

    muster_buf_str(&buf, content);
    return buf;
}

static muster_err
send_text(struct muster_post *post, const char *to, const char *content)
{
    struct muster_buf buf = text(content);
    muster_err err = muster_post_send(post, to, &buf);

    cr_assert_eq(buf.size, 0, "the buffer is empty in every case");
    cr_assert_null(buf.data);
    return err;
}

static struct muster_post *
open_post(struct muster_bus *bus, const char *address, size_t limit)
{
    struct muster_post *post = NULL;

    cr_assert_eq(muster_post_open(bus, address, limit, &post), MUSTER_OK);
    return post;
}

static void
expect_text(struct muster_post *post, const char *content)
{
    struct muster_frame frame;

    cr_assert_eq(muster_post_receive(post, 10000, -1, &frame), MUSTER_OK);
    cr_assert_eq(frame.size, strlen(content), "expected %s, got %.*s", content, (int)frame.size,
                 (const char *)frame.data);
    cr_assert_eq(memcmp(frame.data, content, frame.size), 0);
    muster_frame_free(&frame);
}

/* ---- posts ------------------------------------------------------------------------------------------------------- */

Test(mail, messages_arrive_whole_and_in_order)
{
    struct muster_bus *bus = muster_bus_new();
    struct muster_post *a = open_post(bus, "a", 1000), *b = open_post(bus, "agent/b", 1000);
    char content[64];

    cr_assert_str_eq(muster_post_address(b), "agent/b");
    for (int i = 0; i < 500; i++) {
        snprintf(content, sizeof content, "a message that is longer than a small one, number %d", i);
        cr_assert_eq(send_text(a, "agent/b", content), MUSTER_OK);
    }
    for (int i = 0; i < 500; i++) {
        snprintf(content, sizeof content, "a message that is longer than a small one, number %d", i);
        expect_text(b, content);
    }
    muster_post_close(&a);
    muster_post_close(&b);
    cr_assert_null(b);
    muster_bus_free(&bus);
    cr_assert_null(bus);
}

Test(mail, empty_message_arrives)
{
    struct muster_bus *bus = muster_bus_new();
    struct muster_post *post = open_post(bus, "a", 10);
    struct muster_buf empty = {0};
    struct muster_frame frame;

    cr_assert_eq(muster_post_send(post, "a", &empty), MUSTER_OK);
    cr_assert_eq(muster_post_receive(post, 10000, -1, &frame), MUSTER_OK);
    cr_assert_eq(frame.size, 0);
    muster_frame_free(&frame);
    muster_frame_free(&frame);
    muster_post_close(&post);
    muster_bus_free(&bus);
}

Test(mail, big_message_is_not_copied)
{
    struct muster_bus *bus = muster_bus_new();
    struct muster_post *post = open_post(bus, "a", 10);
    struct muster_buf big = {0};
    struct muster_frame frame;
    const char *data;

    memset(muster_buf_room(&big, 5000000), 'x', 5000000);
    big.size = 5000000;
    data = big.data;
    cr_assert_eq(muster_post_send(post, "a", &big), MUSTER_OK);
    cr_assert_eq(muster_post_receive(post, 10000, -1, &frame), MUSTER_OK);
    cr_assert_eq(frame.size, 5000000);
    cr_assert_eq(frame.data, data);
    muster_frame_free(&frame);
    muster_post_close(&post);
    muster_bus_free(&bus);
}

struct gauge_seen {
    size_t mailboxes;
    size_t waiting;
    size_t limit;
    uint64_t refused;
};

static void
see_gauge(void *arg, const struct muster_mailbox_gauge *gauge)
{
    struct gauge_seen *seen = arg;

    seen->mailboxes++;
    if (strcmp(gauge->address, "small") == 0) {
        seen->waiting = gauge->waiting;
        seen->limit = gauge->limit;
        seen->refused = gauge->refused;
    }
}

Test(mail, full_mailbox_refuses_and_counts)
{
    struct muster_bus *bus = muster_bus_new();
    struct muster_post *sender = open_post(bus, NULL, 10), *small = open_post(bus, "small", 3);
    struct gauge_seen seen = {0};

    for (int i = 0; i < 3; i++)
        cr_assert_eq(send_text(sender, "small", "fits"), MUSTER_OK);
    cr_assert_eq(send_text(sender, "small", "does not fit"), MUSTER_OVERLOADED);
    cr_assert_eq(send_text(sender, "small", "does not fit"), MUSTER_OVERLOADED);
    muster_bus_gauges(bus, see_gauge, &seen);
    cr_assert_eq(seen.mailboxes, 1, "fresh mailboxes are not shown");
    cr_assert_eq(seen.waiting, 3);
    cr_assert_eq(seen.limit, 3);
    cr_assert_eq(seen.refused, 2);
    expect_text(small, "fits");
    cr_assert_eq(send_text(sender, "small", "fits again"), MUSTER_OK);
    expect_text(small, "fits");
    expect_text(small, "fits");
    expect_text(small, "fits again");
    seen = (struct gauge_seen){0};
    muster_bus_gauges(bus, see_gauge, &seen);
    cr_assert_eq(seen.waiting, 0);
    muster_post_close(&sender);
    muster_post_close(&small);
    muster_bus_free(&bus);
}

Test(mail, taken_address_is_refused_and_free_after_close)
{
    struct muster_bus *bus = muster_bus_new();
    struct muster_post *first = open_post(bus, "queue", 10), *second = NULL, *sender = open_post(bus, "a", 10);

    cr_assert_eq(muster_post_open(bus, "queue", 10, &second), MUSTER_EXISTS);
    cr_assert_null(second);
    for (int i = 0; i < 50; i++) {
        cr_assert_eq(send_text(sender, "queue", "to the old one"), MUSTER_OK);
        muster_post_close(&first);
        cr_assert_eq(send_text(sender, "queue", "to nobody"), MUSTER_NOT_FOUND);
        first = open_post(bus, "queue", 10);
        cr_assert_eq(send_text(sender, "queue", "to the new one"), MUSTER_OK);
        expect_text(first, "to the new one");
    }
    muster_post_close(&first);
    muster_post_close(&sender);
    muster_bus_free(&bus);
}

Test(mail, fresh_addresses_differ_and_can_be_answered)
{
    struct muster_bus *bus = muster_bus_new();
    struct muster_post *a = open_post(bus, NULL, 10), *b = open_post(bus, NULL, 10);

    cr_assert_str_neq(muster_post_address(a), muster_post_address(b));
    cr_assert_eq(strncmp(muster_post_address(a), "caller/", 7), 0);
    cr_assert_eq(send_text(a, muster_post_address(b), "hello"), MUSTER_OK);
    expect_text(b, "hello");
    muster_post_close(&a);
    muster_post_close(&b);
    muster_bus_free(&bus);
}

Test(mail, receive_ends_after_its_timeout)
{
    struct muster_bus *bus = muster_bus_new();
    struct muster_post *post = open_post(bus, "a", 10);
    struct muster_frame frame;

    cr_assert_eq(muster_post_receive(post, 0, -1, &frame), MUSTER_TIMEOUT);
    cr_assert_eq(muster_post_receive(post, 5, -1, &frame), MUSTER_TIMEOUT);
    muster_post_close(&post);
    muster_bus_free(&bus);
}

Test(mail, closing_with_waiting_messages_frees_them)
{
    struct muster_bus *bus = muster_bus_new();
    struct muster_post *a = open_post(bus, "a", 1000), *b = open_post(bus, "b", 1000);

    for (int i = 0; i < 600; i++)
        cr_assert_eq(send_text(a, "b", "nobody will ever read these words, and yet their memory is given back"),
                     MUSTER_OK);
    muster_post_close(&b);
    muster_post_close(&a);
    muster_bus_free(&bus);
}

Test(mail, two_buses_do_not_know_each_other)
{
    struct muster_bus *one = muster_bus_new(), *two = muster_bus_new();
    struct muster_post *a = open_post(one, "queue", 10), *b = open_post(two, "queue", 10), *c = open_post(two, "c", 10);
    struct muster_frame frame;

    cr_assert_eq(send_text(a, "c", "x"), MUSTER_NOT_FOUND);
    cr_assert_eq(send_text(c, "queue", "for two"), MUSTER_OK);
    expect_text(b, "for two");
    cr_assert_eq(muster_post_receive(a, 0, -1, &frame), MUSTER_TIMEOUT);
    muster_post_close(&a);
    muster_post_close(&b);
    muster_post_close(&c);
    muster_bus_free(&one);
    muster_bus_free(&two);
}

Test(mail, signals_stay_the_programs)
{
    struct muster_bus *bus;
    struct muster_post *post;
    struct sigaction action;

    signal(SIGINT, SIG_DFL); /* whoever started us may have had it ignored */
    signal(SIGTERM, SIG_DFL);
    bus = muster_bus_new();
    post = open_post(bus, "a", 10);
    cr_assert_eq(sigaction(SIGINT, NULL, &action), 0);
    cr_assert(action.sa_handler == SIG_DFL);
    cr_assert_eq(sigaction(SIGTERM, NULL, &action), 0);
    cr_assert(action.sa_handler == SIG_DFL);
    muster_post_close(&post);
    muster_bus_free(&bus);
}

/* ---- watched sockets --------------------------------------------------------------------------------------------- */

static void *
close_other_side(void *arg)
{
    close(*(int *)arg);
    return NULL;
}

Test(mail, receive_notices_that_the_client_left)
{
    struct muster_bus *bus = muster_bus_new();
    struct muster_post *post = open_post(bus, "a", 10);
    struct muster_frame frame;
    pthread_t thread;
    int fds[2];

    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    cr_assert_eq(pthread_create(&thread, NULL, close_other_side, &fds[1]), 0);
    cr_assert_eq(muster_post_receive(post, -1, fds[0], &frame), MUSTER_GONE);
    pthread_join(thread, NULL);
    cr_assert_eq(send_text(post, "a", "a message comes first"), MUSTER_OK);
    cr_assert_eq(muster_post_receive(post, -1, fds[0], &frame), MUSTER_OK);
    muster_frame_free(&frame);
    close(fds[0]);
    muster_post_close(&post);
    muster_bus_free(&bus);
}

Test(mail, bytes_sent_ahead_do_not_look_like_leaving)
{
    struct muster_bus *bus = muster_bus_new();
    struct muster_post *post = open_post(bus, "a", 10);
    struct muster_frame frame;
    int fds[2];

    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    cr_assert_eq(write(fds[1], "GET / HTTP/1.1", 14), 14);
    cr_assert_eq(muster_post_receive(post, 10, fds[0], &frame), MUSTER_TIMEOUT);
    cr_assert_eq(send_text(post, "a", "answer"), MUSTER_OK);
    cr_assert_eq(muster_post_receive(post, 10000, fds[0], &frame), MUSTER_OK);
    muster_frame_free(&frame);
    close(fds[0]);
    close(fds[1]);
    muster_post_close(&post);
    muster_bus_free(&bus);
}

/* ---- many threads ------------------------------------------------------------------------------------------------ */

enum { CALLERS = 300, QUESTIONS = 40 };

struct caller {
    struct muster_bus *bus;
    pthread_t thread;
    int number;
};

/* A question is "<reply address> <text>", its answer the text. */
static void *
answer_all(void *arg)
{
    struct muster_post *post = arg;
    char content[128];

    for (int i = 0; i < CALLERS * QUESTIONS; i++) {
        struct muster_frame frame;
        char *space;

        cr_assert_eq(muster_post_receive(post, 60000, -1, &frame), MUSTER_OK);
        cr_assert_lt(frame.size, sizeof content);
        memcpy(content, frame.data, frame.size);
        content[frame.size] = '\0';
        muster_frame_free(&frame);
        space = strchr(content, ' ');
        *space = '\0';
        cr_assert_eq(send_text(post, content, space + 1), MUSTER_OK);
    }
    return NULL;
}

static void *
ask(void *arg)
{
    struct caller *caller = arg;
    struct muster_post *post = open_post(caller->bus, NULL, 10);
    char question[128], answer[64];

    for (int i = 0; i < QUESTIONS; i++) {
        snprintf(answer, sizeof answer, "question %d of %d", i, caller->number);
        snprintf(question, sizeof question, "%s %s", muster_post_address(post), answer);
        cr_assert_eq(send_text(post, "store", question), MUSTER_OK);
        expect_text(post, answer);
    }
    muster_post_close(&post);
    return NULL;
}

Test(mail, three_hundred_threads_get_their_own_answers)
{
    static struct caller callers[CALLERS];
    struct muster_bus *bus = muster_bus_new();
    struct muster_post *store = open_post(bus, "store", 1000);
    pthread_t thread;

    cr_assert_eq(pthread_create(&thread, NULL, answer_all, store), 0);
    for (int i = 0; i < CALLERS; i++) {
        callers[i] = (struct caller){.bus = bus, .number = i};
        cr_assert_eq(pthread_create(&callers[i].thread, NULL, ask, &callers[i]), 0);
    }
    for (int i = 0; i < CALLERS; i++)
        pthread_join(callers[i].thread, NULL);
    pthread_join(thread, NULL);
    muster_post_close(&store);
    muster_bus_free(&bus);
}

enum { SENDERS = 4, EACH = 20000 };

static void *
send_numbers(void *arg)
{
    struct caller *caller = arg;
    struct muster_post *post = open_post(caller->bus, NULL, 10);

    for (int i = 0; i < EACH; i++) {
        struct muster_buf buf = {0};
        int numbers[2] = {caller->number, i};

        muster_buf_add(&buf, numbers, sizeof numbers);
        cr_assert_eq(muster_post_send(post, "sink", &buf), MUSTER_OK);
    }
    muster_post_close(&post);
    return NULL;
}

Test(mail, each_sender_keeps_its_order_and_none_is_lost)
{
    struct caller callers[SENDERS];
    int next[SENDERS] = {0};
    struct muster_bus *bus = muster_bus_new();
    struct muster_post *sink = open_post(bus, "sink", SENDERS * EACH);

    for (int i = 0; i < SENDERS; i++) {
        callers[i] = (struct caller){.bus = bus, .number = i};
        cr_assert_eq(pthread_create(&callers[i].thread, NULL, send_numbers, &callers[i]), 0);
    }
    for (int i = 0; i < SENDERS * EACH; i++) {
        struct muster_frame frame;
        int numbers[2];

        cr_assert_eq(muster_post_receive(sink, 60000, -1, &frame), MUSTER_OK);
        memcpy(numbers, frame.data, sizeof numbers);
        muster_frame_free(&frame);
        cr_assert_eq(numbers[1], next[numbers[0]]++);
    }
    for (int i = 0; i < SENDERS; i++)
        pthread_join(callers[i].thread, NULL);
    muster_post_close(&sink);
    muster_bus_free(&bus);
}

static void *
send_until_gone(void *arg)
{
    struct caller *caller = arg;
    struct muster_post *post = open_post(caller->bus, NULL, 10);
    muster_err err;

    do
        err = send_text(post, "short", "a message that is longer than thirty-three bytes");
    while (err == MUSTER_OK || err == MUSTER_OVERLOADED);
    cr_assert_eq(err, MUSTER_NOT_FOUND);
    muster_post_close(&post);
    return NULL;
}

Test(mail, mailbox_may_close_while_others_send)
{
    struct caller callers[SENDERS];
    struct muster_bus *bus = muster_bus_new();
    struct muster_post *post = open_post(bus, "short", 50);
    struct muster_frame frame;

    for (int i = 0; i < SENDERS; i++) {
        callers[i] = (struct caller){.bus = bus, .number = i};
        cr_assert_eq(pthread_create(&callers[i].thread, NULL, send_until_gone, &callers[i]), 0);
    }
    for (int i = 0; i < 5000; i++) {
        cr_assert_eq(muster_post_receive(post, 60000, -1, &frame), MUSTER_OK);
        muster_frame_free(&frame);
    }
    muster_post_close(&post);
    for (int i = 0; i < SENDERS; i++)
        pthread_join(callers[i].thread, NULL);
    muster_bus_free(&bus);
}

/* ---- feed -------------------------------------------------------------------------------------------------------- */

/* Publish a text of that kind. */
static void
publish(struct muster_post *post, unsigned kind, const char *text)
{
    struct muster_buf buf = {0};

    muster_buf_str(&buf, text);
    muster_feed_publish(post, kind, &buf);
}

static void
expect_next(struct muster_post *post, const char *text)
{
    struct muster_frame frame;

    if (text == NULL) {
        cr_assert_eq(muster_post_receive(post, 0, -1, &frame), MUSTER_TIMEOUT);
        return;
    }
    cr_assert_eq(muster_post_receive(post, 0, -1, &frame), MUSTER_OK, "%s is missing", text);
    cr_assert_eq(frame.size, strlen(text));
    cr_assert_eq(memcmp(frame.data, text, frame.size), 0);
    muster_frame_free(&frame);
}

Test(feed, a_subscriber_gets_the_kinds_it_wants)
{
    struct muster_bus *bus = muster_bus_new();
    struct muster_post *log = open_post(bus, "log", 10), *one = open_post(bus, "one", 10),
                       *both = open_post(bus, "both", 10);

    cr_assert_not(muster_feed_is_wanted(log, 1));
    cr_assert_eq(muster_feed_subscribe(bus, "one", 1), MUSTER_OK);
    cr_assert(muster_feed_is_wanted(log, 1));
    cr_assert_not(muster_feed_is_wanted(log, 2));
    cr_assert_eq(muster_feed_subscribe(bus, "both", 1 | 2), MUSTER_OK);
    cr_assert(muster_feed_is_wanted(log, 2));
    publish(log, 1, "first");
    publish(log, 2, "second");
    publish(log, 4, "nobody's");
    expect_next(one, "first");
    expect_next(one, NULL);
    expect_next(both, "first");
    expect_next(both, "second");
    expect_next(both, NULL);
    cr_assert_eq(muster_feed_subscribe(bus, "one", 2), MUSTER_OK, "it wants something else now");
    publish(log, 1, "third");
    publish(log, 2, "fourth");
    expect_next(one, "fourth");
    expect_next(one, NULL);
    cr_assert_eq(muster_feed_missed(bus, "one"), 0, "what is not wanted is not missed");
    muster_post_close(&log);
    muster_post_close(&one);
    muster_post_close(&both);
    muster_bus_free(&bus);
}

Test(feed, every_subscriber_gets_everything_in_order)
{
    struct muster_bus *bus = muster_bus_new();
    struct muster_post *store = open_post(bus, "store", 10), *other = open_post(bus, "other", 100);
    struct muster_post *subscribers[3];
    const char *names[] = {"sse", "webhook", "metrics"};
    struct muster_frame frame;
    char content[64];

    for (int i = 0; i < 3; i++) {
        subscribers[i] = open_post(bus, names[i], 100);
        cr_assert_eq(muster_feed_subscribe(bus, names[i], 1), MUSTER_OK);
        cr_assert_eq(muster_feed_subscribe(bus, names[i], 1), MUSTER_OK, "a second time changes nothing");
    }
    for (int i = 0; i < 50; i++) {
        struct muster_buf buf = {0};

        muster_buf_printf(&buf, "event %d, which is longer than a small message", i);
        muster_feed_publish(store, 1, &buf);
        cr_assert_null(buf.data);
    }
    for (int i = 0; i < 150; i++) {
        snprintf(content, sizeof content, "event %d, which is longer than a small message", i / 3);
        expect_text(subscribers[i % 3], content);
    }
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(muster_post_receive(subscribers[i], 0, -1, &frame), MUSTER_TIMEOUT);
        cr_assert_eq(muster_feed_missed(bus, names[i]), 0);
        muster_post_close(&subscribers[i]);
    }
    cr_assert_eq(muster_post_receive(other, 0, -1, &frame), MUSTER_TIMEOUT);
    muster_post_close(&other);
    muster_post_close(&store);
    muster_bus_free(&bus);
}

Test(feed, subscriber_shares_the_bytes)
{
    struct muster_bus *bus = muster_bus_new();
    struct muster_post *a = open_post(bus, "a", 10), *b = open_post(bus, "b", 10);
    struct muster_buf buf = text("the very same bytes, longer than a small message");
    struct muster_frame one, two;

    cr_assert_eq(muster_feed_subscribe(bus, "a", 1), MUSTER_OK);
    cr_assert_eq(muster_feed_subscribe(bus, "b", 1), MUSTER_OK);
    muster_feed_publish(a, 1, &buf);
    cr_assert_eq(muster_post_receive(a, 10000, -1, &one), MUSTER_OK);
    cr_assert_eq(muster_post_receive(b, 10000, -1, &two), MUSTER_OK);
    cr_assert_eq(one.data, two.data);
    muster_frame_free(&one);
    cr_assert_eq(memcmp(two.data, "the very same", 13), 0);
    muster_frame_free(&two);
    muster_post_close(&a);
    muster_post_close(&b);
    muster_bus_free(&bus);
}

Test(feed, full_mailbox_misses_and_knows_how_much)
{
    struct muster_bus *bus = muster_bus_new();
    struct muster_post *store = open_post(bus, "store", 10), *slow = open_post(bus, "slow", 2);
    struct muster_post *fast = open_post(bus, "fast", 10);

    cr_assert_eq(muster_feed_subscribe(bus, "slow", 1), MUSTER_OK);
    cr_assert_eq(muster_feed_subscribe(bus, "fast", 1), MUSTER_OK);
    for (int i = 0; i < 5; i++) {
        struct muster_buf buf = text("event");

        muster_feed_publish(store, 1, &buf);
    }
    cr_assert_eq(muster_feed_missed(bus, "slow"), 3);
    cr_assert_eq(muster_feed_missed(bus, "slow"), 0, "counted since the last call");
    cr_assert_eq(muster_feed_missed(bus, "fast"), 0);
    cr_assert_eq(muster_feed_missed(bus, "nobody"), 0);
    for (int i = 0; i < 5; i++)
        expect_text(fast, "event");
    muster_post_close(&slow);
    muster_post_close(&fast);
    muster_post_close(&store);
    muster_bus_free(&bus);
}

Test(feed, who_unsubscribes_or_closes_gets_nothing_more)
{
    struct muster_bus *bus = muster_bus_new();
    struct muster_post *store = open_post(bus, "store", 10), *a = open_post(bus, "a", 10), *b = open_post(bus, "b", 10);
    struct muster_buf buf = text("event");
    struct muster_frame frame;

    cr_assert_eq(muster_feed_subscribe(bus, "nobody", 1), MUSTER_NOT_FOUND);
    cr_assert_eq(muster_feed_subscribe(bus, "a", 1), MUSTER_OK);
    cr_assert_eq(muster_feed_subscribe(bus, "b", 1), MUSTER_OK);
    muster_feed_unsubscribe(bus, "a");
    muster_feed_unsubscribe(bus, "a");
    muster_feed_unsubscribe(bus, "nobody");
    muster_post_close(&b);
    muster_feed_publish(store, 1, &buf);
    cr_assert_eq(muster_post_receive(a, 0, -1, &frame), MUSTER_TIMEOUT);
    b = open_post(bus, "b", 10);
    buf = text("event");
    muster_feed_publish(store, 1, &buf);
    cr_assert_eq(muster_post_receive(b, 0, -1, &frame), MUSTER_TIMEOUT);
    muster_post_close(&a);
    muster_post_close(&b);
    muster_post_close(&store);
    muster_bus_free(&bus);
}

/* ---- board ------------------------------------------------------------------------------------------------------- */

static atomic_int destroyed;

static void
destroy_number(void *object)
{
    *(int *)object = -1; /* a late reader would see it */
    free(object);
    atomic_fetch_add(&destroyed, 1);
}

static void
publish_number(struct muster_bus *bus, int number)
{
    int *object = malloc(sizeof *object);

    *object = number;
    muster_board_publish(bus, "keys", object, destroy_number);
}

Test(board, object_lives_until_its_last_reader_is_done)
{
    struct muster_bus *bus = muster_bus_new();
    struct muster_notice *old, *new;

    cr_assert_null(muster_board_take(bus, "keys"));
    publish_number(bus, 1);
    old = muster_board_take(bus, "keys");
    publish_number(bus, 2);
    new = muster_board_take(bus, "keys");
    cr_assert_eq(atomic_load(&destroyed), 0);
    cr_assert_eq(*(const int *)muster_notice_object(old), 1);
    cr_assert_eq(*(const int *)muster_notice_object(new), 2);
    muster_notice_release(&old);
    cr_assert_null(old);
    cr_assert_eq(atomic_load(&destroyed), 1);
    muster_notice_release(&new);
    muster_notice_release(&new);
    cr_assert_eq(atomic_load(&destroyed), 1, "it still stands on the board");
    muster_bus_free(&bus);
    cr_assert_eq(atomic_load(&destroyed), 2);
}

static void *
read_numbers(void *arg)
{
    int last = 0;

    while (last < 2000) {
        struct muster_notice *notice = muster_board_take(arg, "keys");
        int number = *(const int *)muster_notice_object(notice);

        cr_assert_geq(number, last, "never back to an older one");
        last = number;
        muster_notice_release(&notice);
    }
    return NULL;
}

Test(board, readers_see_whole_objects_while_they_are_replaced)
{
    struct muster_bus *bus = muster_bus_new();
    pthread_t threads[4];

    publish_number(bus, 0);
    for (int i = 0; i < 4; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, read_numbers, bus), 0);
    for (int i = 1; i <= 2000; i++)
        publish_number(bus, i);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    muster_bus_free(&bus);
    cr_assert_eq(atomic_load(&destroyed), 2001);
}
