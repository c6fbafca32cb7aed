/* set_clock SECONDS: the guest's wall clock, since 1970. The busybox of a 32-bit Debian knows no year after 2038. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int main(int count, char **arguments)
{
    struct timespec now = {0};

    if (count != 2)
        return 2;
    now.tv_sec = strtoll(arguments[1], NULL, 10);
    if (clock_settime(CLOCK_REALTIME, &now) == 0)
        return 0;
    perror("set_clock");
    return 1;
}
