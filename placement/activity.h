/* How busy a slab is: A = alpha * measured + (1 - alpha) * A, once a
 * second, measured in pages read and written (the paper's section 4.2).
 */

#ifndef ISW_ACTIVITY_H
#define ISW_ACTIVITY_H

#include <stdint.h>

/* The average after a period in which pages_per_second was measured;
 * the same step serves the donor's memory use U with beta.
 */
double activity_step (double average, double measured, double weight);

/* How many pages within the current second lift the average to
 * hot_pages_per_second before the second ends: the least n with
 * weight * n + (1 - weight) * average >= hot.  0 if the average alone
 * suffices, UINT64_MAX if nothing does (weight 0).
 */
uint64_t activity_pages_to_hot (double average, double hot_pages_per_second,
                                double weight);

#endif /* ISW_ACTIVITY_H */
