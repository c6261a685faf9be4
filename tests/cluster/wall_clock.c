/* Loaded before libc (LD_PRELOAD): the wall clock of a process is wrong by LADLE_WALL_CLOCK_S seconds.

   Only what tells the time of day. Durations are measured with other clocks, which stay as they are. libfaketime also
   changes clock_nanosleep, with which Python sleeps since 3.11, and it then fails or sleeps for the difference. */

#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long wrong_by(void) {
  const char *text = getenv("LADLE_WALL_CLOCK_S");
  return text ? atol(text) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  int status = syscall(SYS_clock_gettime, clock, now);
  if (status == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += wrong_by();
  return status;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  struct timespec precise;
  int status = clock_gettime(CLOCK_REALTIME, &precise);
  if (status == 0) *now = (struct timeval){precise.tv_sec, precise.tv_nsec / 1000};
  return status;
}

time_t time(time_t *into) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (into) *into = now.tv_sec;
  return now.tv_sec;
}
