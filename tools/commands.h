/* SPDX-License-Identifier: MPL-2.0 */
/* What each command runs.  Main thread; returns the exit code. */
#ifndef TOOLS_COMMANDS_H
#define TOOLS_COMMANDS_H

#include "tools/args.h"

int run_serve(const struct call *call);
int run_worker(const struct call *call);

int run_ask(const struct call *call);
int run_execute(const struct call *call);
int run_stream(const struct call *call);

int run_status(const struct call *call);
int run_job(const struct call *call);
int run_cancel(const struct call *call);
int run_retry(const struct call *call);
int run_pause(const struct call *call);
int run_resume(const struct call *call);
int run_jobs(const struct call *call);
int run_history(const struct call *call);
int run_watch(const struct call *call);

int run_nodes(const struct call *call);
int run_drain(const struct call *call);

int run_webhook_create(const struct call *call);
int run_webhook_list(const struct call *call);
int run_webhook_show(const struct call *call);
int run_webhook_pause(const struct call *call);
int run_webhook_resume(const struct call *call);
int run_webhook_test(const struct call *call);
int run_webhook_rotate(const struct call *call);
int run_webhook_delete(const struct call *call);
int run_webhook_secret(const struct call *call);

int run_key_create(const struct call *call);
int run_key_list(const struct call *call);
int run_key_rotate(const struct call *call);
int run_key_revoke(const struct call *call);

int run_describe(const struct call *call);
int run_check_config(const struct call *call);
int run_bench(const struct call *call);
int run_version(const struct call *call);

#endif
