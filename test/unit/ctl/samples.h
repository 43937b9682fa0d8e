/* Status documents as the programs send them. */

#ifndef TEST_SAMPLES_H
#define TEST_SAMPLES_H

extern const char sample_device[];
extern const char sample_donor[];

#endif /* TEST_SAMPLES_H */
