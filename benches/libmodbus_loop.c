/* The plain loop that the bus is compared with: libmodbus_loop PORT READS prints reads a second. */
#include <modbus.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int main(int argc, char **argv)
{
    if (argc != 3)
        return 64;
    int reads = atoi(argv[2]);
    modbus_t *line = modbus_new_rtu(argv[1], 230400, 'N', 8, 1);
    if (!line || modbus_set_slave(line, 1) || modbus_connect(line))
        return 1;
    struct timespec begun, ended;
    uint16_t words[20];
    /* As the other side: the first is not counted. */
    if (modbus_read_registers(line, 0, 20, words) != 20)
        return 2;
    clock_gettime(CLOCK_MONOTONIC, &begun);
    for (int n = 0; n < reads; n++)
        if (modbus_read_registers(line, 0, 20, words) != 20)
            return 2;
    clock_gettime(CLOCK_MONOTONIC, &ended);
    double took = (double)(ended.tv_sec - begun.tv_sec) + (double)(ended.tv_nsec - begun.tv_nsec) / 1e9;
    printf("%f\n", reads / took);
    modbus_close(line);
    modbus_free(line);
    return 0;
}
